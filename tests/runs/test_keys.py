"""A key changes with what shapes the result and with nothing else."""

import sys

from vlforge.recipe.graph import Node
from vlforge.runs import keys
from vlforge.runs.keys import fingerprint, node_key, source_digest


def node(**settings):
    return Node("n", "n", "tests.runs.plain_kind", 1, settings, {}, ("",), (0,))


def test_a_setting_changes_the_key():
    assert node_key(node(text="a"), {}) != node_key(node(text="b"), {})


def test_the_nodes_name_does_not_change_the_key():
    other = Node("m@x.s3", "m", "tests.runs.plain_kind", 9, {"text": "a"}, {}, ("x",), (3,))
    assert node_key(other, {}) == node_key(node(text="a"), {})


def test_an_outside_file_counts_by_its_content_not_its_place(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    for path in (first, second):
        path.write_text("same")
    assert node_key(node(text=str(first)), {}) == node_key(node(text=str(second)), {})
    second.write_text("other")
    assert node_key(node(text=str(first)), {}) != node_key(node(text=str(second)), {})


def test_a_folders_fingerprint_sees_a_new_file(tmp_path):
    before = fingerprint(tmp_path)
    (tmp_path / "x").write_text("")
    assert fingerprint(tmp_path) != before


def test_source_counts_through_imports_but_comments_do_not(tmp_path, monkeypatch):
    package = tmp_path / "vlforge_probe_module.py"
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest(text: str) -> str:
        from vlforge.runs import keys

        package.write_text(text)
        keys._read_module.cache_clear()
        keys._module_path.cache_clear()
        sys.modules.pop("vlforge_probe_module", None)
        return source_digest(["vlforge_probe_module"])

    plain = digest("def f():\n    return 1\n")
    assert digest('def f():\n    """Say one."""\n    return 1  # one\n') != digest(
        "def f(): return 2"
    )
    assert digest("# a remark\ndef f():\n    return 1\n") == plain
    assert digest("from vlforge import types\ndef f():\n    return 1\n") != plain


def test_looking_for_the_code_of_a_stage_imports_none_of_it(tmp_path, monkeypatch):
    package = tmp_path / "looked_at"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "heavy.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert keys._module_path("looked_at.heavy") == package / "heavy.py"
    assert keys._module_path("looked_at.heavy.Name") is None
    assert keys._module_path("looked_at.absent") is None
