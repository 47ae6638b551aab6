"""The files of a folder."""

import os
from pathlib import Path

import pytest

from base.checks import InputError
from training.images import listing
from training.images.listing import Listing, has_pictures


def below(folder: Path, files: list[str]) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in files]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "c/d/e.tiff", "c/f.txt", ".hidden.png", ".git/g.png", "notes.md", "c.png", "README")
    listed = Listing()
    assert below(tmp_path, listed.images(str(tmp_path)).files) == ["a.png", "b.JPG", "c/d/e.tiff", "c.png"]
    assert listed.notes() == ["left out: 2 hidden, 3 files that are no images by their names (no suffix 1, .txt 1, .md 1)"]


def test_all_suffixes_of_a_format(tmp_path: Path) -> None:
    names = sorted(f"a{suffix}" for suffix in listing.SUFFIXES)
    touch(tmp_path, *names)
    assert set(below(tmp_path, Listing().images(str(tmp_path)).files)) >= {"a.jfif", "a.jpe", "a.pnm", "a.jpg"}
    touch(tmp_path, "b.heic", "c.HEIC", "d.psd")
    found = Listing().images(str(tmp_path))
    assert found.unread[".heic"] == 2 and found.unread[".psd"] == 1


def test_what_systems_make_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "@eaDir/a.jpg", "cats/__MACOSX/b.jpg", "cats/Thumbs.db", "cats/c.jpg", ".ipynb_checkpoints/d.jpg")
    touch(tmp_path, "$RECYCLE.BIN/e.jpg", "lost+found/f.jpg", "System Volume Information/g.jpg")
    listed = Listing()
    assert below(tmp_path, listed.images(str(tmp_path)).files) == ["cats/c.jpg"]
    (note,) = listed.notes()
    assert note.startswith("left out: 6 made by the system (") and "1 hidden" in note


def test_each_real_folder_once(tmp_path: Path) -> None:
    touch(tmp_path, "store/a.png", "images/b.png")
    (tmp_path / "images/linked").symlink_to(tmp_path / "store")
    (tmp_path / "images/a.png").symlink_to(tmp_path / "store/a.png")
    for name in ("one", "two"):
        (tmp_path / "images" / name).symlink_to(tmp_path / "images")
        (tmp_path / "store" / name).symlink_to(tmp_path / "store")
    (tmp_path / "images/self").symlink_to("self")
    listed = Listing()
    found = below(tmp_path / "images", listed.images(str(tmp_path / "images")).files)
    assert found == ["a.png", "b.png", "linked/a.png"]
    assert listed.notes()[0].startswith("left out: 4 links to folders that are listed already")
    assert listed.images(str(tmp_path / "store")).again == (str(tmp_path / "store"), str(tmp_path / "images/linked"))


def test_links_that_lead_to_two_million_places(tmp_path: Path) -> None:
    for level in range(21):
        (tmp_path / str(level)).mkdir()
        for name in ("a", "b"):
            (tmp_path / str(level) / name).symlink_to(tmp_path / str(level + 1))
    touch(tmp_path, "21/a.png")
    assert len(Listing().images(str(tmp_path / "0")).files) == 1
    assert has_pictures(str(tmp_path / "0"))


def test_too_deep_and_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(150):
            os.mkdir("d")
            os.chdir("d")
        with open("a.png", "wb"):
            pass
    finally:
        os.chdir(here)
    with pytest.raises(InputError, match=r"^data\.root: .*: has folders more than 100 deep in one another$"):
        Listing().images(str(tmp_path))
    touch(tmp_path, *(f"other/{number}.png" for number in range(20)))
    monkeypatch.setattr(listing, "MOST_FILES", 19)
    with pytest.raises(InputError, match=r"^data\.root: .*/other: the data set has more than 19 files$"):
        Listing().images(str(tmp_path / "other"))
