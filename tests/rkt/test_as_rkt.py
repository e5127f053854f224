"""Rules that rkt's own functional tests showed us; each with a test of ours."""

import os
import shutil
from pathlib import Path

import pytest

from executor.pods import bandwidth
from executor.rkt.cli import main
from executor.stage0 import acmanifest, build
from executor.stage1 import lsm

pytestmark = pytest.mark.root


def test_who_prepared_a_pod_has_let_its_images_in(box):
    uuid = box.good("prepare", "--quiet", "example.com/box").out.strip()
    box.strict = True
    done = box("run-prepared", "--net=none", uuid)
    assert (done.code, done.out) == (0, "hello\n"), done.err


def test_what_is_not_insisted_on_is_said_when_a_pod_runs(box):
    uuid = box.good(
        "prepare", "--quiet", "example.com/box", "--exec=/bin/grep", "--", "CapBnd", "/proc/self/status"
    ).out
    done = box.good("run-prepared", "--net=none", "--insecure-options=capabilities", uuid.strip())
    known = (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1
    assert int(done.out.split()[1], 16) == known


def test_paths_alone_show_all_of_proc(fetched):
    # Hidden ones are empty: mounts of their own.
    script = "grep -c ' /proc/' /proc/self/mountinfo; grep -c CapBnd.*ffff /proc/self/status"
    assert fetched.sh(script).lines[0] != "0"
    assert fetched.sh(script, "--insecure-options=paths").lines == ["0", "0"]


def test_mtab(fetched):
    done = fetched.sh("ls -l /etc/mtab; ls -ld /etc")
    assert done.lines[0].endswith("/etc/mtab -> ../proc/self/mounts")
    assert done.lines[-1].startswith("drwxr-xr-x"), done.err


def test_hosts(fetched):
    names = "127.0.0.1 localhost localhost.domain localhost4 localhost4.localdomain4"
    assert f"{names} rkt-" in fetched.sh("cat /etc/hosts").out
    assert f"{names} there\n" in fetched.sh("cat /etc/hosts", "--hostname=there").out


def test_a_target_without_a_slash_begins_at_the_root(fetched, tmp_path):
    (tmp_path / "file").write_text("x")
    flags = ("--volume", f"v,kind=host,source={tmp_path}/file", "--mount", "volume=v,target=../../new/file")
    assert fetched.sh("cat /new/file", *flags).out == "x"


@pytest.mark.parametrize(
    ("program", "named"),
    [("/no such", "/no such"), ("/host/script", "/no/interpreter"), ("/host/link", "/lib64/loader.so.9")],
)
def test_what_is_missing_is_named(fetched, tmp_path, program, named):
    (tmp_path / "script").write_text("#!/no/interpreter -x\n")
    elf = bytearray(120) + b"/lib64/loader.so.9\0"
    elf[:6], elf[16:20], elf[20] = b"\x7fELF\x02\x01", b"\x02\x00\x3e\x00", 1
    elf[32], elf[52], elf[54], elf[56] = 64, 64, 56, 1  # where program headers are, sizes, how many
    elf[64], elf[68], elf[72], elf[96], elf[104] = 3, 4, 120, 19, 19  # PT_INTERP: its text
    (tmp_path / "elf").write_bytes(elf)
    (tmp_path / "link").symlink_to("/host/elf")
    for name in ("script", "elf"):
        (tmp_path / name).chmod(0o755)
    flags = ("--volume", f"v,kind=host,source={tmp_path}", "--mount", "volume=v,target=/host")
    done = fetched("run", "--net=none", *flags, "example.com/box", f"--exec={program}")
    assert done.code == 254
    assert f'Error: Unable to open "{named}": No such file or directory' in done.err


def test_flags_of_a_verb_may_stand_before_it(box, capsys):
    ours = box.flags
    assert main(["--pretty-print=false", *ours, "image", "cat-manifest", "example.com/box"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["--full", "--pull-policy", "never", *ours, "fetch", "example.com/box"]) == 0
    assert len(capsys.readouterr().out) > 100
    assert main(["--nonsense", *ours, "list"]) == 254
    assert "unknown flag: --nonsense" in capsys.readouterr().err
    assert main(["--nonsense=1"]) == 254
    assert "unknown flag: --nonsense" in capsys.readouterr().err


def test_debug_says_where_images_come_from(rkt, images):
    def said(*args):
        return [line for line in rkt.good(*args, "--debug").err.splitlines() if line.startswith("image: ")]

    assert said("fetch", images.aci) == [f"image: using image from file {images.aci}"]
    assert said("fetch", "--store-only", images.aci) == [f"image: using image from file {images.aci}"]
    [line] = said("prepare", "example.com/box:1.0")
    assert line == "image: using image from local store for image name example.com/box:1.0"
    full = rkt.good("fetch", "--full", images.aci).out.strip()
    assert said("prepare", full) == [f"image: using image from the store with hash {full}"]
    assert not [line for line in rkt.good("fetch", images.aci).err.splitlines() if line.startswith("image: ")]


def test_mounts_of_the_host_without_a_source_hurt_nobody(fetched, tmp_path):
    """mountinfo then has two blanks in a row."""
    script = f'mount -t tmpfs "" {tmp_path} && exec "$@"'
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        "-",
        *fetched.command("run", "--net=none", "example.com/box"),
    ]
    assert os.spawnvp(os.P_WAIT, command[0], command) == 0


def test_a_file_with_a_uuid_goes_before_words_in_cat_manifest(box, tmp_path):
    uuid = box.good("prepare", "--quiet", "example.com/box").out.strip()
    (tmp_path / "uuid").write_text(uuid)
    assert "example.com/box" in box.good("cat-manifest", f"--uuid-file={tmp_path}/uuid", "else").out


def test_messages_that_scripts_look_for(rkt, images, tmp_path):
    rkt.strict = True
    assert "[error opening signature file]" in rkt("prepare", images.aci).err
    assert 'no matches found for "0f746094"' in rkt("rm", "0f746094").err
    rkt.strict = False
    rkt.good("fetch", images.aci, images.oci)
    assert "[no image IDs found]" in rkt("image", "cat-manifest", "sha512-00112233").err
    assert "image ID too short" in rkt("image", "cat-manifest", "sha512-0").err
    assert "Writing pod manifest" in rkt.good("prepare", images.aci, "--debug").err
    clash = rkt("prepare", "--pod-manifest=/dev/null", "--port=web:80")
    assert "conflicting flags set with --pod-manifest" in clash.err
    assert "is not in name:[ip:]port format" in rkt("prepare", "--port=web", images.aci).err


def converted(images, where, **app):
    """An ACI that was made from a docker image, with a volume on a link, and without /etc/passwd."""
    root = where / "rootfs"
    shutil.copytree(images.rootfs, root, symlinks=True)
    (root / "etc/passwd").unlink()
    (root / "link").symlink_to("/data/../data")
    options = build.Options(entrypoint=("/bin/cat", "/link/file"), compression="none")
    manifest = acmanifest.manifest_for("example.com/docked", options)
    manifest["annotations"] = [{"name": "appc.io/docker/repository", "value": "x"}]
    manifest["app"] |= {"mountPoints": [{"name": "v", "path": "/link"}], **app}
    build.build_aci(root, where / "docked.aci", manifest, options, "none")
    return str(where / "docked.aci")


def test_volumes_of_what_was_a_docker_image_begin_with_its_content(rkt, images, tmp_path):
    done = rkt.good("run", "--net=none", converted(images, tmp_path), "--user=root")
    assert done.out == "of the image\n"


def test_of_two_words_on_privileges_the_last_one_counts(rkt, images, tmp_path):
    isolators = [{"name": "os/linux/no-new-privileges", "value": value} for value in (False, True)]
    aci = converted(images, tmp_path, isolators=isolators)
    done = rkt.good("run", "--net=none", aci, "--exec=/bin/grep", "--", "NoNewPrivs", "/proc/self/status")
    assert done.out == "NoNewPrivs:\t1\n"


def test_the_owner_of_a_file_is_who_the_pod_sees(fetched):
    """Not who that is on the host, where the pod's ids are others."""
    done = fetched("run", "--net=none", "--private-users", "example.com/box", "--user=/data", "--group=/data",
                   "--exec=/bin/id")  # fmt: skip
    assert "uid=7 gid=8" in done.out, done.err


def test_isolators_that_nobody_enforces_are_warned_of(rkt, images, tmp_path):
    isolators = [
        {"name": "example.com/odd", "value": {"x": 1}},
        {"name": "resource/network-bandwidth", "value": {"default": True, "limit": "1G"}},
        {"name": "resource/memory", "value": {"limit": "64M"}},
    ]
    aci = converted(images, tmp_path, isolators=isolators)
    done = rkt.good("run", "--net=none", aci, "--exec=/bin/echo", "--", "ran")
    assert done.out == "ran\n"
    warned = [line.partition("warning: ")[2] for line in done.err.splitlines() if "warning: " in line]
    assert warned == [
        "app docked: isolator example.com/odd is not enforced: not known here, skipping",
        f"app docked: isolator resource/network-bandwidth is not enforced: {bandwidth.WHY_NOT}, skipping",
    ]


def test_a_label_is_insisted_on(rkt, images, tmp_path):
    if not lsm.why_not(lsm.APPARMOR):
        pytest.skip("AppArmor is on")
    aci = converted(
        images, tmp_path, isolators=[{"name": "os/linux/apparmor-profile", "value": {"profile": "x"}}]
    )
    done = rkt("run", "--net=none", aci)
    assert (done.code, "AppArmor is not on in this kernel" in done.err) == (254, True)


def test_who_is_asked_first_for_a_signature(rkt):
    """Nobody is there."""
    flags = ("prepare", "https://127.0.0.1:1/x.aci")
    rkt.strict = True
    assert "[error downloading the signature file]" in rkt(*flags).err
    rkt.strict = False
    assert "signature" not in rkt(*flags).err


def test_event_handlers_are_root(rkt, images, tmp_path):
    """They make ready what an app without rights then uses."""
    handler = {"name": "pre-start", "exec": ["/bin/sh", "-c", "id; echo made > /made"]}
    aci = converted(images, tmp_path, eventHandlers=[handler], user="1234", group="2345")
    done = rkt.good("run", "--net=none", aci, "--exec=/bin/sh", "--", "-c", "id; cat /made")
    assert [line.split(" ")[0] for line in done.lines] == ["uid=0", "uid=1234", "made"]


def test_user_namespaces_may_be_declined(fetched):
    assert fetched.sh("cat /proc/self/uid_map", "--private-users=false").out.split() == [
        "0",
        "0",
        "4294967295",
    ]
    assert fetched.sh("cat /proc/self/uid_map", "--private-users").out.split()[2] == "65536"
