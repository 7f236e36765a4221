"""Small file operations that others undo at the same time."""

import contextlib
import threading

import pytest

from tasks.transfer.volume.files import make_folder


def test_a_folder_is_made_while_others_remove_it_and_its_parent(tmp_path):
    path = tmp_path / "parent" / "folder"
    is_over = threading.Event()

    def remove():
        while not is_over.is_set():
            for each in (path, path.parent):
                with contextlib.suppress(OSError):
                    each.rmdir()

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(5_000):
            make_folder(path)
    finally:
        is_over.set()
        remover.join()


def test_a_volume_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_folder(tmp_path / "unmounted" / ".orchestrator" / "job")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    make_folder(tmp_path / "parent" / "folder")
    (tmp_path / "parent" / "folder" / "file").touch()
    make_folder(tmp_path / "parent" / "folder")
    assert (tmp_path / "parent" / "folder" / "file").exists()
    assert (tmp_path / "parent").stat().st_mode & 0o777 == 0o700
