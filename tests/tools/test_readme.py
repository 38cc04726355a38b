from tools import readme


def test_catalogue_in_the_readme_is_current() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_catalogue(text) == text, "run `make readme`"


def test_the_readme_is_short() -> None:
    assert len(readme.README.read_text(encoding="utf-8").splitlines()) <= 150
