"""Check a SavedModel's operations, without TensorFlow: only pure computations are served.

TensorFlow treats a graph like trusted code: operations can read and write any file, run Python, open sockets.
A graph here may compute, look up words and hold variables. Operations that load and save variables are
allowed if only TensorFlow's loader can reach them, not requests.
"""

from functools import cache
from pathlib import Path
from typing import Any

from flowparts.util import trees

FILE = "saved_model.pb"
# The graph without its weights; protobuf's own limit is 2 GB.
_MAX_BYTES = 256 << 20
_FOLDERS = ("assets", "variables")
_FILES = (FILE, "fingerprint.pb", "keras_metadata.pb")

# Allowed operations; none takes the name of a file, a device or a machine.
_COMPUTES = frozenset(
    word
    for kind in (
        # Numbers.
        """
        Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh
        BatchMatMul BatchMatMulV2 BatchMatMulV3 Betainc BitwiseAnd BitwiseOr BitwiseXor Bucketize Ceil
        ClipByValue Complex Conj Cos Cosh Cross Cumprod Cumsum DenseBincount Digamma Div DivNoNan Einsum
        Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual IFFT Igamma Igammac
        Imag Inv Invert IsFinite IsInf IsNan L2Loss LeakyRelu LeftShift Less LessEqual Lgamma Log Log1p
        LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max Maximum Mean Min Minimum Mod Mul MulNoNan
        Ndtri Neg NextAfter NotEqual OneHot Pow Prod RFFT Range Real RealDiv Reciprocal RightShift Rint
        Round Rsqrt SegmentMax SegmentMean SegmentMin SegmentSum Sigmoid Sign Sin Sinh Softmax Softplus
        Softsign Sqrt Square SquaredDifference Sub Sum Tan Tanh TopK TopKV2 TruncateDiv TruncateMod
        UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentSum Xdivy Xlogy Zeta
        """,
        # Shapes.
        """
        BatchToSpaceND BroadcastArgs BroadcastTo Cast CheckNumerics Concat ConcatV2 Const DepthToSpace
        DynamicPartition DynamicStitch EnsureShape ExpandDims Fill Gather GatherNd GatherV2 Identity
        IdentityN InvertPermutation LinSpace MirrorPad OnesLike Pack Pad PadV2 ParallelDynamicStitch
        Placeholder PlaceholderWithDefault PreventGradient RaggedGather RaggedRange RaggedTensorToTensor
        Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd Select SelectV2 Shape ShapeN Size
        Slice Snapshot Sort SpaceToBatchND SpaceToDepth SparseReorder SparseReshape SparseSegmentMean
        SparseSegmentSum SparseTensorDenseMatMul SparseToDense Split SplitV Squeeze StopGradient
        StridedSlice TensorScatterAdd TensorScatterUpdate Tile Transpose Unique UniqueV2 Unpack Where
        ZerosLike
        """,
        # Layers.
        """
        AvgPool AvgPool3D BiasAdd BiasAddV1 Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2
        DepthwiseConv2dNative Elu FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN MaxPool MaxPool3D
        MaxPoolV2 Relu Relu6 Selu _FusedConv2D _FusedMatMul
        """,
        # Text, images and times; none takes a file name.
        """
        AdjustContrastv2 AdjustHue AdjustSaturation AsString CropAndResize DecodeAndCropJpeg DecodeBase64
        DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng DecodeRaw DecodeWebP EncodeBase64 HSVToRGB
        RGBToHSV ReduceJoin RegexFullMatch RegexReplace ResizeArea ResizeBicubic ResizeBilinear
        ResizeNearestNeighbor ScaleAndTranslate StaticRegexFullMatch StaticRegexReplace StringFormat
        StringJoin StringLength StringLower StringSplit StringSplitV2 StringStrip StringToHashBucketFast
        StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode UnicodeEncode
        UnicodeTranscode
        """,
        # Variables, vocabularies, lists and control.
        """
        Assert AssignVariableOp Case DisableCopyOnRead EmptyTensorList HashTable HashTableV2 If
        InitializeTable InitializeTableV2 LookupTableExport LookupTableExportV2 LookupTableFind
        LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2 MutableHashTableV2 NoOp PartitionedCall
        ReadVariableOp StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile TensorListConcatV2
        TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
        TensorListPopBack TensorListPushBack TensorListReserve TensorListSetItem TensorListStack
        VarHandleOp VarIsInitializedOp VariableShape While
        """,
    )
    for word in kind.split()
)
_LOADS = frozenset(["RestoreV2"])
_SAVES = frozenset(["MergeV2Checkpoints", "SaveV2", "ShardedFilename"])


def check(folder: Path) -> None:
    """Raise ValueError if a SavedModel does more than compute, or there is more than one.

    Args:
        folder: The folder of saved_model.pb.
    """
    for file in trees.files(folder):
        name = file.relative_to(folder)
        if name.as_posix() not in _FILES and name.parts[0] not in _FOLDERS:
            raise ValueError(
                f"the SavedModel at {folder} holds {name}, which doesn't belong in a SavedModel; remove it"
            )
    if (folder / FILE).stat().st_size > _MAX_BYTES:
        raise ValueError(f"the graph at {folder / FILE} has more than {_MAX_BYTES >> 20} MB")
    message = _messages()
    try:
        saved = message.FromString((folder / FILE).read_bytes())
    # Protobuf's own error, whose module depends on how it was built.
    except Exception:
        raise ValueError(f"{folder / FILE} is not a SavedModel") from None
    for graph in saved.meta_graphs:
        _check_graph(graph, folder)


def _check_graph(graph: Any, folder: Path) -> None:
    for asset in graph.asset_file_def:
        trees.inside(folder / "assets", asset.filename)
    library = graph.graph_def.library.function
    functions = {function.signature.name: function.node_def for function in library}
    if len(functions) < len(library):
        raise ValueError(f"the SavedModel at {folder} has two functions of one name; export it again")
    files = _LOADS | _SAVES
    for nodes in (graph.graph_def.node, *functions.values()):
        if unknown := sorted({node.op for node in nodes} - _COMPUTES - files):
            raise ValueError(
                f"the SavedModel at {folder} has the operation {unknown[0]!r}, which may do more than "
                "compute; export the network without it"
            )
    touching = _touching(functions)
    saver = graph.saver_def
    save, restore = _node(saver.save_tensor_name), _node(saver.restore_op_name)
    path = _node(saver.filename_tensor_name)
    allowed = {save: files, restore: _LOADS}
    for node in graph.graph_def.node:
        if node.op in files:
            raise ValueError(_reachable(folder))
        does = {op for name in _called(node) for op in touching.get(name, ())}
        inputs = [_node(name) for name in node.input]
        # Saving runs only if it is requested by name, and TensorFlow provides the file name.
        if does and (not does <= allowed.get(node.name, frozenset()) or inputs[:1] != [path]):
            raise ValueError(_reachable(folder))
        if (save in inputs and node.name != save) or (path in inputs and node.name not in allowed):
            raise ValueError(_reachable(folder))
    for nodes in functions.values():
        for node in nodes:
            # A function's argument has a name without a colon: the caller provides the path.
            if node.op in _LOADS and ":" in "".join(node.input[:1]):
                raise ValueError(_reachable(folder))
    # The nodes that requests feed and fetch, and those that run on load.
    signatures = graph.signature_def.values()
    tensors = [tensor for each in signatures for tensor in (*each.inputs.values(), *each.outputs.values())]
    named = [name for each in graph.collection_def.values() for name in each.node_list.value]
    if {_node(name) for name in (*(tensor.name for tensor in tensors), *named)} & {save, restore, path}:
        raise ValueError(_reachable(folder))


def _reachable(folder: Path) -> str:
    return f"the SavedModel at {folder} reads or writes files where a request may reach it; export it again"


def _node(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _called(node: Any) -> set[str]:
    """Return the functions that a node may call: by its operation's name, or as an attribute."""
    values = node.attr.values()
    listed = [function.name for value in values for function in value.list.func]
    return {node.op, *(value.func.name for value in values if value.func.name), *listed}


def _touching(functions: dict[str, Any]) -> dict[str, set[str]]:
    """Return the file operations of each function and of those that it calls."""
    found = {name: {node.op for node in nodes} & (_LOADS | _SAVES) for name, nodes in functions.items()}
    callers: dict[str, set[str]] = {name: set() for name in functions}
    for name, nodes in functions.items():
        for called in {each for node in nodes for each in _called(node)} & functions.keys():
            callers[called].add(name)
    waiting = [name for name, does in found.items() if does]
    while waiting:
        name = waiting.pop()
        for caller in callers[name]:
            if not found[name] <= found[caller]:
                found[caller] |= found[name]
                waiting.append(caller)
    return found


@cache
def _messages() -> Any:
    """Return the message of a SavedModel, with only the fields that are checked.

    The field numbers are from TensorFlow's saved_model.proto, meta_graph.proto, graph.proto, function.proto,
    node_def.proto, attr_value.proto and saver.proto.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    package = "flowparts.saved_model"
    file = descriptor_pb2.FileDescriptorProto(name="saved_model.proto", package=package, syntax="proto3")
    text, one, many = field.TYPE_STRING, field.LABEL_OPTIONAL, field.LABEL_REPEATED
    for message, fields in {
        "SavedModel": [(2, "meta_graphs", "MetaGraph", many)],
        "MetaGraph": [
            (2, "graph_def", "Graph", one), (3, "saver_def", "Saver", one),
            (4, "collection_def", "Collection", "map"),
            (5, "signature_def", "Signature", "map"), (6, "asset_file_def", "Asset", many),
        ],
        "Graph": [(1, "node", "Node", many), (2, "library", "Library", one)],
        "Library": [(1, "function", "Function", many)],
        "Function": [(1, "signature", "Name", one), (3, "node_def", "Node", many)],
        "Name": [(1, "name", "", one)],
        "Node": [
            (1, "name", "", one), (2, "op", "", one), (3, "input", "", many), (5, "attr", "Attribute", "map"),
        ],
        "Attribute": [(1, "list", "Attributes", one), (10, "func", "Name", one)],
        "Attributes": [(9, "func", "Name", many)],
        "Saver": [
            (1, "filename_tensor_name", "", one), (2, "save_tensor_name", "", one),
            (3, "restore_op_name", "", one),
        ],
        "Collection": [(1, "node_list", "Names", one)],
        "Names": [(1, "value", "", many)],
        "Signature": [(1, "inputs", "Name", "map"), (2, "outputs", "Name", "map")],
        "Asset": [(2, "filename", "", one)],
    }.items():  # fmt: skip
        made = file.message_type.add(name=message)
        for number, name, of, label in fields:
            added = made.field.add(
                name=name, number=number, type=text, label=many if label == "map" else label
            )
            if label == "map":
                entry = made.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type=text, label=one)
                value = entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, label=one)
                value.type_name = f".{package}.{of}"
                of = f"{message}.{entry.name}"
            if of:
                added.type, added.type_name = field.TYPE_MESSAGE, f".{package}.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.SavedModel"))
