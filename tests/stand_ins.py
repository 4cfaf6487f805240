"""Stand-ins for a GPU: a driver whose device memory is this process's, and a TensorRT that computes with NumPy there.

Work is queued and runs when its stream is synchronised, as on a device; while a stream records, it does not run at all.
So code that forgets to wait, or reads before it copied, gets wrong numbers here, too.
"""

import base64
import ctypes
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.tensorrt.backend import PLAN_FILE, TensorRTRTX
from latentrt.engines.backends.tensorrt.build import PlanGraph
from latentrt.engines.backends.tensorrt.contents import shapes_record
from latentrt.engines.backends.tensorrt.run import TensorRTModel
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array, TensorSpec

Compute = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class StandInDriver:
    """A ``Driver``. ``log`` has every call in order; ``fail`` names the call, by its place in the log, that fails."""

    def __init__(self, *, free: int = 2**33, fail: int | None = None, capability: tuple[int, int] = (8, 9)) -> None:
        self.log: list[str] = []
        self.fail = fail
        self.free_bytes = free
        self.capability = capability
        self.sold_as = "NVIDIA Quadro RTX 6000/8000"
        self.memory: dict[int, tuple[str, Any]] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.recordings: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self._handles = 1000

    @property
    def live(self) -> Counter[str]:
        """What is allocated now."""
        kinds = Counter(kind for kind, _ in self.memory.values())
        return +Counter({**kinds, "stream": len(self.queues), "graph": len(self.graphs)})

    def _called(self, name: str) -> None:
        self.log.append(name)
        if self.fail == len(self.log) - 1:
            raise EngineError(f"CUDA's {name} failed: a stand-in's failure")

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def _allocate(self, kind: str, size: int) -> int:
        buffer = (ctypes.c_uint8 * size)()
        ctypes.memset(buffer, 0xA5, size)  # nobody may count on zeros
        address = ctypes.addressof(buffer)
        self.memory[address] = kind, buffer
        return address

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Queues work, or records it."""
        (self.recordings.get(stream, self.queues[stream])).append(work)

    def compute_capability(self) -> tuple[int, int]:
        return self.capability

    def model(self) -> str:
        return self.sold_as

    def free_memory(self) -> int:
        self._called("free_memory")
        return self.free_bytes

    def malloc(self, size: int) -> int:
        self._called("malloc")
        return self._allocate("device", size)

    def free(self, address: int) -> None:
        self._called("free")
        assert self.memory.pop(address)[0] == "device"

    def host_alloc(self, size: int) -> int:
        self._called("host_alloc")
        return self._allocate("pinned", size)

    def host_free(self, address: int) -> None:
        self._called("host_free")
        assert self.memory.pop(address)[0] == "pinned"

    def _at(self, address: int) -> tuple[str, int]:
        """The kind of the buffer that an address lies in, and how many bytes of it are from there on."""
        begin = max(known for known in self.memory if known <= address)
        kind, buffer = self.memory[begin]
        return kind, begin + len(buffer) - address

    def view(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Device memory as an array: a whole buffer, or a part of one that holds several results."""
        begin = max(known for known in self.memory if known <= address)
        kind, buffer = self.memory[begin]
        size = int(np.prod(shape)) * dtype.itemsize
        assert kind == "device"
        assert address + size <= begin + len(buffer)
        return np.frombuffer(buffer, np.uint8)[address - begin :][:size].view(dtype).reshape(shape)

    def _copy(self, target: int, source: int, size: int, stream: int) -> None:
        assert size <= min(self._at(target)[1], self._at(source)[1])

        def work() -> None:
            assert size <= min(self._at(target)[1], self._at(source)[1]), "freed before it was copied"
            ctypes.memmove(target, source, size)

        self.enqueue(stream, work)

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        self._called("copy_to_device")
        assert (self._at(device)[0], self._at(host)[0]) == ("device", "pinned")
        self._copy(device, host, size, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        self._called("copy_to_host")
        assert (self._at(device)[0], self._at(host)[0]) == ("device", "pinned")
        self._copy(host, device, size, stream)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._called("copy_on_device")
        assert (self._at(target)[0], self._at(source)[0]) == ("device", "device")
        assert stream not in self.recordings, "results have another address with every run"
        self._copy(target, source, size, stream)

    def clear(self, device: int, size: int, stream: int) -> None:
        self._called("clear")
        assert self._at(device)[0] == "device"
        assert size <= self._at(device)[1]
        self.enqueue(stream, lambda: ctypes.memset(device, 0, size) and None)

    def stream_create(self) -> int:
        self._called("stream_create")
        stream = self._handle()
        self.queues[stream] = []
        return stream

    def stream_synchronize(self, stream: int) -> None:
        self._called("stream_synchronize")
        assert stream not in self.recordings, "CUDA refuses to wait for a stream that records"
        work, self.queues[stream] = self.queues[stream], []
        for each in work:
            each()

    def stream_destroy(self, stream: int) -> None:
        self._called("stream_destroy")
        assert not self.recordings
        del self.queues[stream]

    def begin_capture(self, stream: int) -> None:
        self._called("begin_capture")
        self.recordings[stream] = []

    def end_capture(self, stream: int) -> int:
        self.log.append("end_capture")
        work = self.recordings.pop(stream)
        if self.fail == len(self.log) - 1:
            raise EngineError("CUDA's cudaGraphInstantiate failed: a stand-in's failure")
        graph = self._handle()
        self.graphs[graph] = work
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._called("launch")
        assert stream not in self.recordings
        self.queues[stream] += self.graphs[graph]

    def graph_destroy(self, graph: int) -> None:
        self._called("graph_destroy")
        del self.graphs[graph]


class StandInContext:
    """An execution context over a plan of ``StandInTensorRT``; ``refuse`` names the one call that answers False."""

    def __init__(self, engine: "StandInEngine") -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.profile: int | None = None
        self.scratch: tuple[int, int] | None = None

    def _answer(self, name: str) -> bool:
        self.engine.driver.log.append(name)
        return self.engine.trt.refuse != name

    def set_device_memory(self, address: int, size: int) -> None:
        assert len(self.engine.driver.memory[address][1]) >= size >= self.engine.device_memory_size_v2
        self.scratch = address, size

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return self._answer("set_optimization_profile_async")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self._answer("set_tensor_address")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        self.shapes[name] = shape
        return self._answer("set_input_shape")

    def execute_async_v3(self, stream: int) -> bool:
        assert self.scratch is not None
        driver, spec = self.engine.driver, self.engine.component.static_shapes[self.profile or 0].spec
        batch = spec.batches[0]
        assert self.shapes == {name: tensor.sized(batch) for name, tensor in spec.inputs.items()}
        addresses = dict(self.addresses)  # those that are bound as a run is enqueued

        def view(name: str, tensor: TensorSpec) -> Array:
            return driver.view(addresses[name], tensor.sized(batch), tensor.dtype)

        def work() -> None:
            taken = {**spec.inputs, **self.engine.weights}
            inputs = {name: view(name, tensor).copy() for name, tensor in taken.items()}
            for name, result in self.engine.compute(inputs).items():
                np.copyto(view(name, spec.outputs[name]), result, casting="no")

        driver.enqueue(stream, work)
        return self._answer("execute_async_v3")


class StandInEngine:
    """A deserialised plan."""

    device_memory_size_v2 = 3 * 2**20

    def __init__(self, trt: "StandInTensorRT", component: Component, compute: Compute) -> None:
        self.trt, self.driver, self.component, self.compute = trt, trt.driver, component, compute
        shapes = component.static_shapes
        self.weights = trt.weights
        self._names = [*shapes[0].spec.inputs, *self.weights, *shapes[0].spec.outputs]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = len(shapes) + trt.profiles_too_many
        trt.open_engines += 1

    def __del__(self) -> None:
        self.trt.open_engines -= 1

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        spec = self.component.static_shapes[index].spec
        return [spec.inputs[name].sized(spec.batches[0])] * 3

    def create_runtime_config(self) -> "StandInRuntimeConfig":
        return StandInRuntimeConfig(self.trt)

    def create_execution_context(self, choice: "str | StandInRuntimeConfig") -> StandInContext | None:
        if self.trt.rtx:
            assert isinstance(choice, StandInRuntimeConfig)
            assert choice.dynamic_shapes_kernel_specialization_strategy == "eager"
            assert choice.allocation == "user-managed"
            cache = choice.get_runtime_cache()
            self.trt.kernel_caches.add(id(cache))
            self.trt.compiled += not cache.kernels
            cache.kernels = cache.kernels or self.trt.environment
        else:
            assert choice == "user-managed"
        self.driver.log.append("create_execution_context")
        return None if self.trt.refuse == "create_execution_context" else StandInContext(self)


class StandInRuntimeCache:
    """TensorRT-RTX's runtime cache: its kernels are the name of where they were compiled, and fit there alone."""

    def __init__(self, trt: "StandInTensorRT") -> None:
        self._trt = trt
        self.kernels = b""

    def serialize(self) -> "StandInHostMemory | None":
        return StandInHostMemory(self.kernels) if self.kernels else None

    def deserialize(self, blob: bytes) -> bool:
        fits = blob == self._trt.environment
        self.kernels = blob if fits else self.kernels
        return fits


class StandInHostMemory(bytes):
    """What TensorRT hands over serialized."""

    @property
    def nbytes(self) -> int:
        return len(self)


class StandInRuntimeConfig:
    """TensorRT-RTX's configuration of a context, with what it begins with."""

    def __init__(self, trt: "StandInTensorRT") -> None:
        self.allocation = "static"
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"
        self._trt = trt
        self._cache: StandInRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> StandInRuntimeCache:
        return StandInRuntimeCache(self._trt)

    def set_runtime_cache(self, cache: StandInRuntimeCache) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> StandInRuntimeCache:
        assert self._cache is not None
        return self._cache


class StandInTensorRT:
    """The module, as far as running needs it. A plan of it is JSON; ``open`` gives what a plan computes."""

    __version__ = "1.0.stand-in"
    rtx = False

    class ILogger:
        INTERNAL_ERROR = SimpleNamespace(name="INTERNAL_ERROR")
        ERROR = SimpleNamespace(name="ERROR")
        WARNING = SimpleNamespace(name="WARNING")

    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user-managed")
    ComputeCapability = SimpleNamespace(__members__=("NONE", "CURRENT", "SM89", "SM120"))

    def __init__(
        self,
        driver: StandInDriver,
        component: Component,
        compute: Compute,
        weights: Mapping[str, TensorSpec] | None = None,
    ) -> None:
        self.driver = driver
        self.weights = weights or {}
        self.kernel_caches: set[int] = set()
        self.compiled = 0  # contexts whose kernels were not in their cache
        self.environment = b"1.0 NVIDIA 580"  # what kernels are bound to
        self.refuse: str | None = None
        self.profiles_too_many = 0
        self.open_engines = 0
        self._component, self._compute = component, compute

    def Runtime(self, log: Any) -> Any:  # noqa: N802  # TensorRT's name
        def deserialize(content: Any) -> StandInEngine | None:
            try:
                json.loads(bytes(content))
            except ValueError:
                log.log(self.ILogger.WARNING, "an old plan")
                log.log(self.ILogger.ERROR, "Magic tag does not match")
                log.log(self.ILogger.ERROR, "what follows from it")
                return None
            return StandInEngine(self, self._component, self._compute)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class StandInTensorRTRTX(StandInTensorRT):
    """The module ``tensorrt_rtx``: its contexts are configured."""

    rtx = True
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager", NONE="none")


class StandInRTX(TensorRTRTX):
    """The backend ``tensorrt-rtx`` on a machine with an sm89: plans that ONNX Runtime computes."""

    def __init__(self) -> None:
        self.driver = StandInDriver()
        self.modules: list[StandInTensorRT] = []
        self.components: dict[str, Component] = {}

    def _driver(self) -> StandInDriver:
        return self.driver

    def _trt(self) -> Any:
        return _ModuleOfPlans(self)

    def build_plan(
        self, component: Component, target: Target, folder: Path, progress: Any, graph: PlanGraph
    ) -> ContentsRecord:
        plan = folder / PLAN_FILE
        if graph.content is None:
            plan.write_text(json.dumps({"component": component.label, "graph": str(component.onnx)}))
        else:
            import onnx

            model = onnx.load_from_string(graph.content)
            onnx.load_external_data_for_model(model, str(graph.path.parent))
            weights = {name: [place.shape, place.dtype] for name, place in graph.weight_inputs.items()}
            content = base64.b64encode(model.SerializeToString()).decode()
            plan.write_text(json.dumps({"component": component.label, "content": content, "weights": weights}))
        return ContentsRecord(
            shapes=shapes_record(component.static_shapes), layers={}, weight_inputs=tuple(graph.weight_inputs)
        )

    def open(self, component: Component, folder: Path, *, threads: int | None) -> TensorRTModel:
        self.components[component.label] = component
        return super().open(component, folder, threads=threads)


class _ModuleOfPlans:
    """``tensorrt_rtx`` to ``StandInRTX``: a plan says itself what ONNX Runtime computes for it."""

    def __init__(self, compiler: StandInRTX) -> None:
        self._compiler = compiler

    def __getattr__(self, name: str) -> Any:
        return getattr(StandInTensorRTRTX, name)

    def Runtime(self, log: Any) -> Any:  # noqa: N802  # TensorRT's name
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, content: Any) -> StandInEngine:
        import onnxruntime

        plan = json.loads(bytes(content))
        component = self._compiler.components[plan["component"]]
        graph = base64.b64decode(plan["content"]) if "content" in plan else plan["graph"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        names = list(component.static_shapes[0].spec.outputs)

        def compute(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            return dict(zip(names, session.run(names, inputs), strict=True))

        weights = {
            name: TensorSpec(shape=tuple(shape), dtype=np.dtype(dtype))
            for name, (shape, dtype) in plan.get("weights", {}).items()
        }
        module = StandInTensorRTRTX(self._compiler.driver, component, compute, weights)
        self._compiler.modules.append(module)
        return StandInEngine(module, component, compute)
