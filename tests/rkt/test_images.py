"""`fetch`, `trust` and `image …`: the store, and whom to believe."""

import io
import json
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.root


def test_acis_have_to_be_signed(rkt, images, signed):
    rkt.strict = True
    aci, key = signed
    done = rkt("fetch", images.aci)
    assert (done.code, "is not signed" in done.err, "--insecure-options=image" in done.err) == (
        254,
        True,
        True,
    )
    assert "no key is trusted" in rkt("fetch", aci).err
    done = rkt("trust", "--prefix=example.com/box", key)
    assert (done.code, "nobody is there to review" in done.err) == (254, True)
    done = rkt.good("trust", "--prefix=example.com/box", "--skip-fingerprint-review", key)
    assert f"{rkt.base}/etc/trustedkeys/prefix.d/example.com/box/" in done.err
    rkt.good("fetch", aci, "--signature", f"{aci}.asc")
    assert rkt.good("run", "--net=none", "example.com/box").out == "hello\n"


def test_what_came_in_unverified_does_not_run_where_signatures_count(rkt, images):
    """Unlike in rkt, where one fetch with --insecure-options=image is good for ever."""
    rkt.good("fetch", images.aci)
    rkt.strict = True
    done = rkt("run", "--net=none", "--pull-policy=never", "example.com/box")
    assert (done.code, "was imported without a signature" in done.err) == (254, True)


def test_images_of_docker_and_oci_need_no_flag(rkt, images):
    rkt.strict = True
    assert rkt.good("run", "--net=none", images.oci).out == "of the image\n"


def test_fetch_prints_ids(rkt, images):
    short = rkt.good("fetch", images.aci).out.strip()
    full = rkt.good("fetch", "--full", images.aci).out.strip()
    assert (len(short), len(full)) == (len("sha512-") + 32, len("sha512-") + 128)
    assert full.startswith(short)
    assert rkt.good("run", "--net=none", short[:20]).out == "hello\n"
    assert rkt.good("fetch", "--pull-policy=never", "example.com/box,version=1.0").out.strip() == short
    assert rkt("fetch", "--pull-policy=never", "example.com/box:2.0").code == 254


def test_lists(box):
    (row,) = box.good("image", "list", "--format=json").json
    assert row["name"] == "example.com/box:1.0"
    assert 0 < row["import_time"] // 10**9 <= row["last_used_time"] // 10**9 + 1
    heads, line = box.good("image", "list").lines
    assert [head for head in heads.split("\t") if head] == ["ID", "NAME", "SIZE", "IMPORT TIME", "LAST USED"]
    assert line.startswith(row["id"][:19] + "\t")
    assert box.good("image", "list", "--fields=size,id", "--full", "--no-legend").out.split() == [
        str(row["size"]), row["id"],
    ]  # fmt: skip
    assert "wrong sort order" in box("image", "list", "--order=up").err


def test_several_versions_of_a_name(box, images, tmp_path):
    """Without a version the one that came last is meant."""
    with tarfile.open(images.aci) as old, tarfile.open(tmp_path / "two.aci", "w") as new:
        for member in old:
            data = old.extractfile(member) if member.isfile() else None
            if member.name == "manifest":
                text = data.read().replace(b'"1.0"', b'"2.0"').replace(b"echo hello", b"echo two--")
                new.addfile(member, io.BytesIO(text))
            else:
                new.addfile(member, io.BytesIO(data.read()) if data else None)
    before = box.good("image", "list", "--format=json").json[0]["id"]
    record = box.data / f"store/images/{before}.json"
    older = json.loads(record.read_text())
    older["verification"]["time"] = "2020-01-01T00:00:00Z"
    record.write_text(json.dumps(older))
    box.good("fetch", tmp_path / "two.aci")
    assert box.good("run", "--net=none", "example.com/box").out == "two--\n"
    assert box.good("run", "--net=none", "example.com/box:1.0").out == "hello\n"


def test_rm(box):
    """By two names, once; what is not there fails nothing: rkt's `rkt/image_rm.go`, TestImageRunRmDuplicate."""
    image_id = box.good("image", "list", "--fields=id", "--no-legend", "--full").out.strip()
    done = box.good("image", "rm", "example.com/box", "nope", image_id)
    assert done.out == f'successfully removed aci for image: "{image_id}"\n'
    assert "nope" in done.err
    assert "1 image(s) successfully removed" in done.err
    assert box.good("image", "list", "--no-legend").out == ""


def test_images_of_running_pods_stay(box):
    process, _ = box.running("example.com/box", "--exec=/bin/sleep", "--", "1000")
    assert "is in use by" in box("image", "rm", "example.com/box").err
    box.good("image", "gc", "--grace-period=0s")
    assert box.good("image", "list", "--no-legend").out
    process.terminate()
    process.wait()
    assert "1 image(s) successfully removed" in box.good("image", "gc", "--grace-period=0s").err


def test_files_of_images(box, images, tmp_path):
    image_id = box.good("image", "list", "--format=json").json[0]["id"]
    box.good("image", "export", "example.com/box", tmp_path / "out.aci")
    assert (tmp_path / "out.aci").read_bytes() == Path(images.aci).read_bytes()
    assert "(try --overwrite)" in box("image", "export", image_id, tmp_path / "out.aci").err
    box.good("image", "export", "--overwrite", image_id, tmp_path / "out.aci")
    for verb in ("extract", "render"):
        out = tmp_path / verb
        box.good("image", verb, "example.com/box", out)
        assert json.loads((out / "manifest").read_text())["name"] == "example.com/box"
        assert (out / "rootfs/data/file").read_text() == "of the image\n"
        assert (out / "rootfs/data").stat().st_uid == 7
        assert "(try --overwrite)" in box("image", verb, "example.com/box", out).err
        box.good("image", verb, "--overwrite", "--rootfs-only", "example.com/box", out)
        assert (out / "data/file").exists()
        assert not (out / "manifest").exists()
    assert "Refusing" in box("image", "render", "--overwrite", "example.com/box", "/").err


def test_a_docker_image_becomes_an_aci(rkt, images, tmp_path):
    rkt.good("fetch", images.oci)
    image_id = rkt.good("image", "list", "--format=json").json[0]["id"]
    manifest = rkt.good("image", "cat-manifest", image_id).json
    assert manifest["app"]["mountPoints"] == [{"name": "volume-data", "path": "/data"}]
    rkt.good("image", "export", image_id, tmp_path / "out.aci")
    rkt.good("fetch", tmp_path / "out.aci")
    assert rkt.good("run", "--net=none", tmp_path / "out.aci", "--exec=/bin/echo", "--", "x").out == "x\n"


def test_verify(box):
    assert box.good("image", "verify", "example.com/box").out.startswith(
        "successfully verified checksum for image"
    )
    (layer,) = (box.data / "store/layers").iterdir()
    (layer / "tree/data/file").write_text("of somebody else\n")
    done = box("image", "verify", "example.com/box")
    assert (done.code, "image example.com/box: layer sha512:" in done.err) == (254, True)
