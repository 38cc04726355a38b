"""The Vertex AI target: one document, within what Vertex AI Pipelines can run."""

from targets import checks, package

MAX_CPUS = 96
MAX_MEMORY_GB = 624


def check(text: str) -> None:
    """Raise ValueError when Vertex AI Pipelines would refuse the compiled YAML."""
    spec, *overlays = package.documents(text)
    checks.check_pipeline_spec(text, spec)
    name = spec["pipelineInfo"]["name"]
    if overlays:
        raise ValueError(
            f"{name}: Vertex AI reads a single document, and something from kfp.kubernetes added a second; "
            "compile it for --target kubeflow"
        )
    for label, executor in spec["deploymentSpec"]["executors"].items():
        resources = executor.get("container", {}).get("resources", {})
        cpus = float(resources.get("cpuLimit", 0))
        memory_gb = float(resources.get("memoryLimit", 0))
        if cpus > MAX_CPUS or memory_gb > MAX_MEMORY_GB:
            raise ValueError(
                f"{name}: {label} asks for {cpus:g} CPUs and {memory_gb:g} GB; "
                f"Vertex AI gives at most {MAX_CPUS} CPUs and {MAX_MEMORY_GB} GB"
            )
        accelerator = resources.get("accelerator", {}).get("resourceType", "")
        if accelerator and not accelerator.startswith(("NVIDIA_", "TPU_", "ct")):
            raise ValueError(
                f"{name}: {label} asks for accelerator {accelerator!r}, a Kubernetes name; "
                "Vertex AI has names such as NVIDIA_TESLA_T4"
            )
