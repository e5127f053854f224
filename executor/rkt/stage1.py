"""Which stage1 a pod gets: a flavor of ours, or an image of somebody else's.

    --stage1-name=coreos.com/rkt/stage1-{coreos,src,host,fly,kvm}, =nspawn  ours
    --stage1-name, -hash, -url of others             that image, found as any other
    --stage1-from-dir=FILE, --stage1-path=…/FILE     a file, or one of that name beside this program; when there is none
                                                     and it is called stage1-fly.aci or so: ours
    rktKind stage1                                   the same, when no flag says anything
    nothing                                          flavor linux

An image has to be signed by a trusted key (or --insecure-options=image be given), but when it is in the directory of
stage1 images or beside this program: that is where an administrator puts what he trusts. Source: rkt
`rkt/stage1hash.go`.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from executor.rkt import config
from executor.rkt.common import Globals
from executor.rkt.flags import Failure
from executor.rkt.podmanifest import ours

if TYPE_CHECKING:
    from executor.contract.interface import Stage1
    from executor.rkt.lookup import Pull
    from executor.stage0.store import Image, ImageStore

FLAGS: Final = {
    "stage1-name": "coreos.com/rkt/stage1-coreos, -fly, -kvm; nspawn; or of a stage1 image",
    "stage1-path": "file of a stage1 image",
    "stage1-url": "address of a stage1 image",
    "stage1-hash": "id of a stage1 image in the store",
    "stage1-from-dir": "file in the directory of stage1 images",
}
FOREIGN: Final = "stage1"
"""The flavor of pods that others' images run."""
IMAGES: Final = "/usr/lib/rkt/stage1-images"
"""Where stage1 images are when no rktKind paths says so."""


@dataclass(frozen=True)
class Place:
    """One place to look for the image. trusted: nobody has to have signed it."""

    text: str
    policy: "Pull" = "new"
    trusted: bool = False


@dataclass(frozen=True)
class Choice:
    """A flavor; of flavor FOREIGN, where the image may be, the best place first."""

    flavor: str
    places: tuple[Place, ...] = ()


def choose(g: Globals, values: Mapping[str, str]) -> Choice:
    """What flags (by name) and configuration say. Failure."""
    given = [(name, values[name]) for name in FLAGS if values.get(name)]
    if len(given) > 1:
        raise Failure(f"flags --{given[0][0]} and --{given[1][0]} are mutually exclusive")
    found = config.load(g.config_dirs)
    directory = found.stage1_images or IMAGES
    if not given:
        return _configured(found, directory)
    [(name, value)] = given
    if name == "stage1-name":
        return Choice(flavor) if (flavor := ours(value)) else _image(Place(value))
    if name == "stage1-hash":
        if not value.startswith("sha512-"):
            raise Failure(f"--stage1-hash: {value!r} is not sha512-…")
        return _image(Place(value, "never"))
    if name == "stage1-url":
        if "://" not in value:
            raise Failure(f"--stage1-url: {value!r} has no scheme")
        return _image(Place(value))
    path = os.path.join(directory, value) if name == "stage1-from-dir" else os.path.abspath(value)
    return _file(path, directory)


def _image(*places: Place) -> Choice:
    return Choice(FOREIGN, places)


def _file(path: str, directory: str) -> Choice:
    beside = _beside(os.path.basename(path))
    if not os.path.exists(path) and not os.path.exists(beside):
        if flavor := ours(os.path.basename(path)):
            return Choice(flavor)
        raise Failure(
            f"stage1 image {path}: No such file or directory, and none of that name beside this program"
        )
    return _image(Place(path, trusted=_below(path, directory)), *_trusted(beside))


def _configured(found: config.Config, directory: str) -> Choice:
    location = found.stage1_location
    if not found.stage1_name and not location:
        return Choice("linux")
    if flavor := ours(found.stage1_name):
        return Choice(flavor)
    places = [Place(f"{found.stage1_name}:{found.stage1_version}", "never")] if found.stage1_name else []
    if location.startswith("/"):
        places.append(Place(location, trusted=_below(location, directory)))
        places += _trusted(_beside(os.path.basename(location)))
    elif "://" in location:
        places.append(Place(location))
    elif location:
        raise Failure(
            f"stage1.d: default stage1 image location is either a relative path or a URL without scheme: {location}"
        )
    return _image(*places)


def _beside(name: str) -> str:
    """A file in this program's directory; "" when it is no file, and so has none."""
    program = os.path.realpath(sys.argv[0])
    return os.path.join(os.path.dirname(program), name) if os.path.isfile(program) else ""


def _trusted(path: str) -> list[Place]:
    return [Place(path, trusted=True)] if path else []


def _below(path: str, directory: str) -> bool:
    """Whether a file is in the directory of stage1 images itself, not by a link or `..`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


async def find(g: Globals, choice: Choice) -> "tuple[Image, ImageStore]":
    """The image of one of the places. Failure of the last one."""
    from executor.rkt.lookup import Finder

    problem = Failure("no stage1 image is named")
    for place in choice.places:
        lax = replace(g, insecure=g.insecure | {"image"}) if place.trusted else g
        finder = Finder(lax, place.policy, lambda text: g.say(f"image: {text}"))
        try:
            return await finder.find(place.text)
        except Failure as error:
            problem = error if place is choice.places[0] else Failure(f"{problem}; {error}")
    raise Failure(f"stage1: {problem}")


def read(g: Globals, image: "Image", *, mutable: bool = False) -> "Stage1":
    """What the image offers to pods whose apps start together; mutable: come and go. Failure when it is no stage1, or
    not for such pods."""
    import json

    from executor.contract import interface
    from executor.stage0 import operations
    from executor.stage0.errors import ImageError

    if image.config.format != "aci":
        raise Failure(f"stage1 {image.id}: a stage1 is an ACI; this is a {image.config.format} image")
    try:
        with operations.opened(g.data, image.id) as stored:
            manifest = operations.manifest(stored)
        known = interface.read(str(manifest["name"]), json.dumps(manifest))
    except (ImageError, interface.ContractError) as error:
        raise Failure(str(error)) from None
    if mutable:
        if not known.mutable:
            raise Failure(f"stage1 {known.name} has no app/add, app/start, app/stop and app/rm: use another")
        return known
    return replace(
        known, entrypoints={k: v for k, v in known.entrypoints.items() if not k.startswith("app/")}
    )
