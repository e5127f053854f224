"""`gantry backup` and `gantry restore`, from every kind of store into every kind."""

import asyncio
import gzip
import stat

import pytest

from scheduler.backup.commands import backup, restore
from scheduler.backup.transfer import BUMP
from scheduler.store import Key, StoreError
from shared.zookeeper.session import Session
from shared.zookeeper.settings import settings_from


def in_thread(command, *argv):
    """The commands have an event loop of their own."""
    return asyncio.to_thread(command, [str(one) for one in argv])


@pytest.fixture
def other_url(tmp_path, zookeeper):
    return {"sqlite": f"sqlite:{tmp_path}/other.db", "zk": f"zk://{zookeeper}/other-{tmp_path.name}"}


async def test_a_backup_of_a_running_store_has_all_that_was_committed(
    new_url, other_url, leading, fill, content, tmp_path, capsys
):
    """And can be restored into either kind: that is how a cluster moves."""
    async with leading(new_url()) as store:
        await fill(store)
        before, version = content(store), store.version
        url = (
            f"sqlite:{store.path}"
            if hasattr(store, "path")
            else f"zk://{store.location.hosts}{store.location.path}"
        )
        assert await in_thread(backup, "--store", url, tmp_path / "backup") == 0
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600
    assert "objects" in capsys.readouterr().out
    for target in other_url.values():
        assert await in_thread(restore, "--store", target, tmp_path / "backup") == 0, capsys.readouterr().err
        async with leading(target) as store:
            assert content(store) == before
            assert store.version >= version + BUMP
            (entry,) = await store.commit((Key("pods", "", "new"), lambda old: {"metadata": {"name": "new"}}))
            assert entry is not None
            assert entry.version > version + BUMP


async def test_what_is_encrypted_stays_encrypted(new_url, leading, tmp_path):
    url = new_url()
    async with leading(url) as store:
        secret = {"metadata": {"name": "s", "namespace": "n"}, "data": {"password": "aHVudGVyMg=="}}
        await store.commit((Key("secrets", "n", "s"), lambda old: secret))
    assert await in_thread(backup, "--store", url, tmp_path / "backup") == 0
    text = gzip.decompress((tmp_path / "backup").read_bytes())
    assert b"aHVudGVyMg" not in text
    assert b'["secrets","n","s",' in text
    other = new_url()
    assert await in_thread(restore, "--store", other, tmp_path / "backup") == 0
    with pytest.raises(StoreError, match="encrypted with key"):
        async with leading(other, ring=None):
            pass
    async with leading(other) as store:
        found = store.get(Key("secrets", "n", "s"))
        assert found is not None
        assert found.obj["data"] == secret["data"]


async def test_only_into_an_empty_store(new_url, leading, fill, content, tmp_path, capsys):
    url, file = new_url(), tmp_path / "backup"
    async with leading(url) as store:
        await fill(store, 5)
        before = content(store)
    assert await in_thread(backup, "--store", url, file) == 0
    assert await in_thread(restore, "--store", url, file) == 4
    assert "into an empty store only" in capsys.readouterr().err
    async with leading(url) as store:
        assert content(store) == before


async def test_a_damaged_file_touches_nothing(new_url, leading, fill, tmp_path, capsys):
    url, file = new_url(), tmp_path / "backup"
    async with leading(url) as store:
        await fill(store, 30)
    assert await in_thread(backup, "--store", url, file) == 0
    file.write_bytes(file.read_bytes()[:-100])
    other = new_url()
    assert await in_thread(restore, "--store", other, file) == 1
    assert "damaged or cut off" in capsys.readouterr().err
    assert await in_thread(backup, "--store", other, tmp_path / "none") == 4
    assert "there is none" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


async def test_what_an_interrupted_restore_left_is_no_store_and_in_nobodys_way(
    zookeeper, leading, fill, content, tmp_path, capsys
):
    url, file = f"zk://{zookeeper}/{tmp_path.name}", tmp_path / "backup"
    async with leading(f"sqlite:{tmp_path}/s.db") as store:
        await fill(store, 30)
        before = content(store)
    assert await in_thread(backup, "--store", f"sqlite:{tmp_path}/s.db", file) == 0
    session = Session(settings_from(url))
    session.start()
    root = settings_from(url).location.path
    await session.ensure(f"{root}/objects/pods/left")
    with pytest.raises(StoreError, match="znodes of another program"):
        async with leading(url):
            pass
    await session.create(f"{root}/restoring", ephemeral=True)
    assert await in_thread(restore, "--store", url, file) == 4
    assert "another restore is at work there" in capsys.readouterr().err
    await session.stop()
    assert await in_thread(restore, "--store", url, file) == 0
    async with leading(url) as store:
        assert content(store) == before
    assert await in_thread(restore, "--store", url, file) == 4
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("--store", "nowhere", "f"), 2, "--store 'nowhere': not a store URL"),
        (("--store", "zk://", "f"), 2, "--store: "),
        (("f",), 2, "the following arguments are required: --store"),
        (("--store", "sqlite:s.db", "--zk-nothing", "f"), 2, "unrecognized arguments: --zk-nothing"),
    ],
)
@pytest.mark.parametrize("command", [backup, restore])
def test_refusals_are_one_line(command, argv, code, said, capsys):
    assert command(list(argv)) == code
    line = capsys.readouterr().err
    assert said in line
    assert line.startswith("gantry: error: ")
    assert line.count("\n") == 1


async def test_a_store_with_an_owner_is_his_alone(zookeeper, leading, fill, content, tmp_path, capsys):
    """The restored one, too."""
    path, file, login = f"{zookeeper}/{tmp_path.name}", tmp_path / "backup", tmp_path / "login"
    login.write_text("gantry:secret\n")
    login.chmod(0o600)
    async with leading(f"zk://gantry:secret@{path}") as store:
        await fill(store, 10)
        before = content(store)
    assert await in_thread(backup, "--store", f"zk://{path}", file) == 4
    assert "our login may not read or write there" in capsys.readouterr().err
    assert await in_thread(backup, "--store", f"zk://{path}", "--zk-digest-file", login, file) == 0
    assert await in_thread(restore, "--store", f"zk://{path}-2", "--zk-digest-file", login, file) == 0
    async with leading(f"zk://gantry:secret@{path}-2") as store:
        assert content(store) == before
    assert await in_thread(backup, "--store", f"zk://{path}-2", file) == 4
