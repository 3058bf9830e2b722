import hashlib
import sys

import pytest

from pipeline.errors import PipelineError
from pipeline.models.conv_layers import alias_of, entry_of, is_own, pinned, source_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory, in which Python looks for modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    source_of.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("my_layers:BlurConv2d", True),
        ("my.layers:Blur@0123abcd", True),
        ("conv2d", False),
        ("my_layers", False),
        ("my_layers.BlurConv2d", False),
        ("my_layers:", False),
        (":Blur", False),
        ("1layer:Blur", False),
        ("my_layers:Blur@0123", False),
        ("my_layers:a.b", False),
        ("a:B c", False),
        ("my..layers:Blur", False),
    ],
)
def test_how_an_own_layer_is_written(name, own):
    assert is_own(name) == own


def test_what_is_neither_in_the_table_nor_an_own_layer_is_refused():
    with pytest.raises(PipelineError, match=r"got 'conv3d'; allowed: conv2d, .*, module:Class$"):
        entry_of("conv3d")


def test_the_digest_is_that_of_the_source_which_is_not_run(folder):
    source = b"raise RuntimeError  # whoever imports this\n"
    (folder / "never_imported.py").write_bytes(source)
    digest = hashlib.sha256(source).hexdigest()[:8]
    name = f"never_imported:Blur@{digest}"
    assert pinned("never_imported:Blur") == name
    assert pinned(name) == name
    assert pinned("conv2d") == "conv2d"
    assert "never_imported" not in sys.modules


def test_a_module_of_a_package_is_found_without_running_the_package(folder):
    (folder / "some_package").mkdir()
    (folder / "some_package/__init__.py").write_text("raise RuntimeError\n")
    (folder / "some_package/layers.py").write_text("")
    assert pinned("some_package.layers:Blur").startswith("some_package.layers:Blur@")
    assert source_of("some_package.layers").file.samefile(folder / "some_package/layers.py")


def test_an_edited_layer_has_another_name_and_the_old_name_is_refused(folder):
    (folder / "edited.py").write_text("one = 1\n")
    before = pinned("edited:Blur")
    (folder / "edited.py").write_text("two = 2\n")
    assert pinned("edited:Blur") == before  # this process has read it
    source_of.cache_clear()
    assert pinned("edited:Blur") != before
    with pytest.raises(PipelineError, match=r"edited\.py has changed since then, .*edited:Blur$"):
        pinned(before)


@pytest.mark.parametrize("module", ["no_such_module", "no_such.module", "sys", "folder"])
def test_a_module_without_a_source_file_is_named_with_the_folder(folder, module):
    (folder / "folder").mkdir()
    with pytest.raises(PipelineError) as error:
        pinned(f"{module}:Blur")
    assert "\n" not in str(error.value)
    assert f"there is no module {module} (a file {module.replace('.', '/')}.py)" in str(error.value)
    assert str(folder) in str(error.value)
    assert "PYTHONPATH" in str(error.value)


def test_the_name_in_an_alias_has_no_digest():
    assert alias_of("conv2d") == "conv2d"
    assert alias_of("my_layers:BlurConv2d@0123abcd") == "my_layers-BlurConv2d"
    assert alias_of("my.layers:Blur") == "my-layers-Blur"
