import pytest

from trac.experiments.source import source_hash

CODE = '''"""A module."""
import math


class Half:
    """A class."""

    def of(self, x: float) -> float:
        """A function."""
        return x / 2


text = "# not a comment"
'''


def hashed(tmp_path, code):
    (tmp_path / "code.py").write_text(code)
    return source_hash(tmp_path / "code.py")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A function."""', '"""Another text."""'),
        ('        """A function."""\n', ""),
        ('"""A module."""\n', ""),
        ("        return x / 2", "        # why\n        return x / 2  # half"),
        ("        return x / 2", "        return (\n            x / 2\n        )"),
    ],
)
def test_comments_docstrings_and_layout_change_nothing(tmp_path, old, new):
    assert hashed(tmp_path, CODE.replace(old, new)) == hashed(tmp_path, CODE) and old in CODE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x / 2", "x * 2"),
        ("x / 2", "x / 2.0"),
        ("x: float", "y: float"),
        ("import math\n", ""),
        ('"# not a comment"', '"# not a Comment"'),
        ("class Half:", "class Half(object):"),
        ("        return x / 2", "        x = x / 2"),
    ],
)
def test_what_the_code_does_changes_it(tmp_path, old, new):
    assert hashed(tmp_path, CODE.replace(old, new)) != hashed(tmp_path, CODE) and old in CODE
