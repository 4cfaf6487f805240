"""Compiled engines inside a bundle: found by their identity, and refused when they do not fit."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from latentrt.engines.backends.compiler import Compiler, Target, WeightsAs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.checked_files import check_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.component import ParityRecord
from latentrt.engines.bundle.records.manifests.engine_manifest import (
    ADDED,
    ENGINE_FILE,
    IMAGE_PROMPTS,
    LOOP,
    SPARSITY,
    WEIGHTS,
    EngineManifest,
)
from latentrt.engines.bundle.records.manifests.manifest_file import check_seal, read_manifest_and_seal, write_manifest
from latentrt.engines.bundle.records.manifests.seal import Seal
from latentrt.engines.bundle.unet.added_inputs import FIXED_IMAGE_PROMPTS, FIXED_IMAGE_TOKENS, added_text
from latentrt.engines.errors import BundleError, BusyError, EngineError, OutputError, RequestError
from latentrt.engines.files import locked, write_file
from latentrt.engines.precision import Backend, computes, usual_backend
from latentrt.engines.shapes import AddedInputs, Loop
from latentrt.engines.store.key import EngineIdentity

_PLAIN: Mapping[str, str] = {}
_LORA_READY: Mapping[str, str] = {WEIGHTS: WeightsAs.INPUTS.value}


def identity_of(
    component: Component, compiler: Compiler, machine: str, variant: Mapping[str, str] = _PLAIN
) -> EngineIdentity:
    """The engine that a component has on a machine, if it is made with what is installed here.

    Args:
        component: whose engine.
        compiler: of its backend.
        machine: as engines name it.
        variant: flags that tell it from the component's plain engine, beside those of its added inputs and its loop.
    """
    return EngineIdentity(
        component=component.name,
        onnx_sha256=component.onnx_sha256,
        backend=compiler.backend,
        backend_version=compiler.version(),
        precision=component.record.precision,
        machine=machine,
        flags=tuple(sorted({**compiler.flags, **_flags_of(component), **variant}.items())),
        shapes=tuple(str(profile) for profile in compiler.profiles(component)),
    )


def _flags_of(component: Component) -> Mapping[str, str]:
    added, sparsity = component.added, component.record.sparsity
    flags = {ADDED: added_text(added)} if added else {}
    if component.loop is Loop.DEVICE:
        flags[LOOP] = component.loop.value
    if sparsity is not None:
        flags[SPARSITY] = sparsity.pattern.value
    if AddedInputs.IMAGE_PROMPT in added:
        flags[IMAGE_PROMPTS] = f"{FIXED_IMAGE_PROMPTS}x{FIXED_IMAGE_TOKENS}"
    return flags


def target_identity(component: Component, compiler: Compiler, target: Target) -> EngineIdentity:
    """The engine that a component gets for a target."""
    variant = _LORA_READY if target.takes_weights(component) else _PLAIN
    return identity_of(component, compiler, target.machine, variant)


def engine_folder(root: Path, identity: EngineIdentity) -> Path:
    """Where an engine lies in a bundle."""
    return root / "engines" / identity.key


def stored_engine(root: Path, identity: EngineIdentity, *, largest_hashed: int | None = None) -> EngineManifest:
    """The engine of this identity, with its files checked: sizes always, digests up to ``largest_hashed`` bytes.

    Raises:
        BundleError: it is missing, or a file of it is missing or altered.
    """
    folder = engine_folder(root, identity)
    engine = read_engine(folder)
    check_files(folder, engine.files, largest_hashed=largest_hashed)
    return engine


def engine_whole(component: Component, compiler: Compiler, target: Target) -> EngineManifest | None:
    """The component's engine for a target if it is there, whole, and made with the workspace asked for.

    One that would become better by compiling it again does not count.
    """
    try:
        engine = stored_engine(component.root, target_identity(component, compiler, target))
    except BundleError:
        return None
    if compiler.would_improve(component, engine):
        return None
    return engine if target.workspace_mb in (None, engine.workspace_mb) else None


def read_engine(folder: Path) -> EngineManifest:
    """Reads ``engine.json`` and checks that it belongs to its folder.

    Raises:
        BundleError: missing, damaged, edited, or copied from elsewhere.
    """
    engine, seal = engine_and_seal(folder)
    check_seal(seal, folder / ENGINE_FILE)
    return engine


def engine_and_seal(folder: Path) -> tuple[EngineManifest, Seal]:
    """What ``engine.json`` says, for callers who look at one whose seal is broken, too.

    Raises:
        BundleError: missing, damaged, or copied from elsewhere.
    """
    engine, seal = read_manifest_and_seal(folder / ENGINE_FILE, EngineManifest)
    if engine.key != folder.name:
        raise BundleError(f"{str(folder)!r} holds the engine of another key; build the bundle again")
    return engine, seal


def engine_folders(root: Path) -> list[Path]:
    """Where a bundle's engines lie, readable or not."""
    return sorted((root / "engines").glob("[0-9a-f]*"))


def engines_in(root: Path) -> list[EngineManifest]:
    """Every readable engine of a bundle."""
    found = []
    for folder in engine_folders(root):
        with suppress(BundleError):
            found.append(read_engine(folder))
    return found


def record_parity(root: Path, engine: EngineManifest, parity: ParityRecord) -> None:
    """Writes figures into the record of an engine that has none.

    Where it cannot be written, or was made again meanwhile, nothing changes: the figures are known all the same.
    """
    if engine.parity is not None:
        return
    folder = root / "engines" / engine.key
    done = engine.model_copy(update={"parity": parity})
    with suppress(BundleError, BusyError, OutputError), locked(root.resolve()):
        if read_engine(folder) == engine:
            write_file(folder / ENGINE_FILE, lambda path: write_manifest(path, done))


def compiled_folder(component: Component, backend: Backend) -> Path:
    """Where the component's engine for this machine is: one that is LoRA-ready, or else the plain one.

    The sizes of its files are checked.

    Raises:
        EngineError: no engine fits this machine.
        BundleError: it is damaged.
    """
    compiler = COMPILERS[backend]
    identity = _present(component, compiler)
    if identity is None:
        raise EngineError(_why_none_fits(component, compiler, identity_of(component, compiler, compiler.here())))
    stored_engine(component.root, identity, largest_hashed=0)
    return engine_folder(component.root, identity)


def holding(component: Component, backend: Backend, added: frozenset[AddedInputs], loop: Loop) -> Component:
    """The component with the fewest added inputs that hold those asked for and that it has an engine for.

    Raises:
        EngineError: there is none that fits this machine.
    """
    compiler, component = COMPILERS[backend], replace(component, loop=loop)
    for variant in _supersets(component, added):
        if _present(variant, compiler) is not None:
            return variant
    variant = replace(component, added=added)
    raise EngineError(_why_none_fits(variant, compiler, identity_of(variant, compiler, compiler.here())))


def variants_here(component: Component, backend: Backend) -> list[Component]:
    """The component with each combination of added inputs that it has an engine of its own for, on this machine.

    Those that make whole steps are among them.
    """
    compiler = COMPILERS[backend]
    if not (compiler.added_apart and component.kind.added_inputs):
        return []
    loops = [replace(component, loop=loop) for loop in (Loop if component.makes_steps else (Loop.HOST,))]
    found = (
        variant
        for one in loops
        for variant in _supersets(one, frozenset())
        if variant.added or variant.loop is Loop.DEVICE
    )
    return [variant for variant in found if _present(variant, compiler) is not None]


def _supersets(component: Component, added: frozenset[AddedInputs]) -> Iterator[Component]:
    """The component with all combinations that hold the added inputs, small ones first."""
    others = [which for which in AddedInputs if which not in added]
    for count in range(len(others) + 1):
        for more in combinations(others, count):
            yield replace(component, added=added | frozenset(more))


def _present(component: Component, compiler: Compiler) -> EngineIdentity | None:
    """The engine that there is for this machine: LoRA-ready, or else plain."""
    machine = compiler.here()
    for variant in (_LORA_READY, _PLAIN) if compiler.lora_ready and component.kind.adaptable else (_PLAIN,):
        identity = identity_of(component, compiler, machine, variant)
        if engine_folder(component.root, identity).is_dir():
            return identity
    return None


def _refused_recipe(component: Component, backend: Backend) -> str | None:
    """Why no build gives a bundle in eight bits engines of a backend; None where one does."""
    from latentrt.engines.graphs.quantization.recipe import check_recipe  # drawing needs none of it

    for record in component.manifest.components.values():
        if record.quantization is not None:
            try:
                check_recipe(record.quantization.recipe, backend)
            except RequestError as error:
                return str(error)
    return None


def _why_none_fits(component: Component, compiler: Compiler, wanted: EngineIdentity) -> str:
    backend, name = compiler.backend, component.label
    precision = component.manifest.precision  # which some of its components may not have
    if not computes(backend, precision):
        return (
            f"{backend} does not compute {precision}, which is the precision of {str(component.root)!r}; make engines "
            f"that do with: latentrt build {component.root} --backend {usual_backend(precision)}"
        )
    refused = _refused_recipe(component, backend)
    if refused is not None:
        return refused
    options = ""
    if component.added:
        plain = _present(replace(component, added=frozenset()), compiler)
        ready = " --lora-ready" if plain is not None and WEIGHTS in dict(plain.flags) else ""
        options = f"{ready} --with {added_text(component.added)}"
    if component.loop is Loop.DEVICE:
        options += f" --loop {component.loop}"
    remedy = f"make one for this machine with: latentrt build {component.root} --backend {backend}{options}"
    others = [
        engine
        for engine in engines_in(component.root)
        if (engine.component, engine.backend) == (component.name, backend)
        and engine.flags.get(ADDED, "") == added_text(component.added)
        and (LOOP in engine.flags) is (component.loop is Loop.DEVICE)
    ]
    foreign = sorted({e.machine for e in others if e.machine != wanted.machine})
    if foreign and all(e.machine != wanted.machine for e in others):
        return (
            f"the {backend} engine of {name} was compiled for another machine "
            f"(got {', '.join(map(repr, foreign))}, expected {wanted.machine!r}); {remedy}"
        )
    versions = {e.backend_version for e in others if e.machine == wanted.machine} - {wanted.backend_version}
    if versions:
        return (
            f"the {backend} engine of {name} was compiled by {compiler.maker} {', '.join(sorted(versions))}, "
            f"installed is {wanted.backend_version}; {remedy}"
        )
    if any(e.machine == wanted.machine for e in others):
        return (
            f"the {backend} engine of {name} was compiled of other files, or by another version of latentrt; {remedy}"
        )
    return f"{str(component.root)!r} has no {backend} engine of {name}; {remedy}"
