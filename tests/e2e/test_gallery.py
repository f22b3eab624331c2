"""The gallery in data_cards/ is what the programs make today."""

import importlib.util


def test_the_gallery_is_what_the_programs_make(root, tmp_path):
    spec = importlib.util.spec_from_file_location("gallery", root / "docs" / "gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    gallery.make(tmp_path)
    fresh = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    known = {
        path.relative_to(root / "data_cards").as_posix() for path in (root / "data_cards").rglob("*") if path.is_file()
    }
    assert fresh.keys() == known - {"README.md"}, "run: make cards"
    for name, path in fresh.items():
        old = gallery.comparable((root / "data_cards" / name).read_text())
        assert gallery.comparable(path.read_text()) == old, f"{name}: run: make cards"
