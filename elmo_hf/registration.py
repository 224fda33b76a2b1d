"""Registration of ELMo with Transformers' Auto classes, without importing Transformers.

ELMo is registered with an Auto class when its module is imported: immediately if it already has been, otherwise by an
import hook.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# The ELMo class for each Auto class.
MODELS = {
    "AutoModel": "ElmoModel",
    "AutoModelForCausalLM": "ElmoForCausalLM",
    "AutoModelForMaskedLM": "ElmoForMaskedLM",
    "AutoModelForMultipleChoice": "ElmoForMultipleChoice",
    "AutoModelForPreTraining": "ElmoForPreTraining",
    "AutoModelForQuestionAnswering": "ElmoForQuestionAnswering",
    "AutoModelForSequenceClassification": "ElmoForSequenceClassification",
    "AutoModelForTokenClassification": "ElmoForTokenClassification",
}


def _register_configuration(module: ModuleType) -> None:
    from elmo_hf.model.configuration_elmo import ElmoConfig, ElmoTaskEncoderConfig

    for kind in (ElmoConfig, ElmoTaskEncoderConfig):
        module.AutoConfig.register(kind.model_type, kind, exist_ok=True)


def _register_tokenizer(module: ModuleType) -> None:
    from elmo_hf.model.configuration_elmo import ElmoConfig
    from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

    module.AutoTokenizer.register(ElmoConfig, tokenizer_class=ElmoTokenizer, exist_ok=True)


def _register_models(executed: ModuleType) -> None:
    """Register the models once all Transformers modules that they import are loaded."""
    for name in (*_MODELS_IMPORT, f"{_AUTO}.modeling_auto"):
        module = sys.modules.get(name)
        waits = name.endswith("modeling_auto") if module is None else getattr(module.__spec__, "_initializing", False)
        if waits and module is not executed:
            return  # the hook of that module will register
    half = sys.modules.get("elmo_hf.model.modeling_elmo")
    if half is not None and getattr(half.__spec__, "_initializing", False):
        return  # it is being imported, and will be registered afterwards
    from elmo_hf.model import modeling_elmo
    from elmo_hf.model.configuration_elmo import ElmoConfig, ElmoTaskEncoderConfig
    from elmo_hf.model.task_encoder import ElmoTaskEncoder

    for auto, model in MODELS.items():
        getattr(sys.modules[f"{_AUTO}.modeling_auto"], auto).register(
            ElmoConfig, getattr(modeling_elmo, model), exist_ok=True
        )
    # Transformers' EncoderDecoderModel creates its encoder by AutoModel.
    auto_model = sys.modules[f"{_AUTO}.modeling_auto"].AutoModel
    auto_model.register(ElmoTaskEncoderConfig, ElmoTaskEncoder, exist_ok=True)


_AUTO = "transformers.models.auto"
# Modules that the models import, and that import the Auto classes themselves.
_MODELS_IMPORT = ("transformers.modeling_utils", "transformers.modeling_layers")
# Modules of `elmo_hf.model` that define no model.
_WITHOUT_MODELS = {
    *("configuration_elmo", "configuration_encoder_decoder", "conditions", "installed", "state"),
}
HOOKS: dict[str, Callable[[ModuleType], None]] = {
    f"{_AUTO}.configuration_auto": _register_configuration,
    f"{_AUTO}.tokenization_auto": _register_tokenizer,
    f"{_AUTO}.modeling_auto": _register_models,
    **dict.fromkeys(_MODELS_IMPORT, _register_models),
}


class _Loader(importlib.abc.Loader):
    """A wrapper of a module's loader with callbacks before the module is created and after it is executed."""

    def __init__(
        self, own: Any, before: Callable[[], None] | None = None, after: Callable[[ModuleType], None] | None = None
    ) -> None:
        self._own, self._before, self._after = own, before, after
        self._found: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        if self._before is not None:
            self._before()
            # The callback may have imported this very module.
            module = sys.modules.get(spec.name)
            if module is not None:
                self._found = module.__spec__
                return module
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if self._found is not None:
            module.__spec__ = self._found
            return
        spec = module.__spec__
        module.__loader__ = self._own
        if spec is not None:
            spec.loader = self._own
        self._own.exec_module(module)
        if self._after is not None:
            self._after(module)


class _Finder(importlib.abc.MetaPathFinder):
    """A finder that delegates to the other finders and wraps their loaders to register ELMo."""

    is_elmo_finder = True

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        is_model = fullname.startswith("elmo_hf.model.") and fullname.rpartition(".")[2] not in _WITHOUT_MODELS
        if not (is_model and f"{_AUTO}.modeling_auto" not in sys.modules) and fullname not in HOOKS:
            return None
        # Nothing may be imported here, because Python holds the import lock.
        for finder in sys.meta_path:
            if not getattr(finder, "is_elmo_finder", False) and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    break
        else:
            return None
        if spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        if fullname in HOOKS:
            spec.loader = _Loader(spec.loader, after=HOOKS[fullname])
        else:
            # A model imports the Auto classes, and their hook imports all models, one of them half imported.
            spec.loader = _Loader(spec.loader, before=import_auto_classes)
        return spec


def import_auto_classes() -> None:
    """Import the Auto classes of models, whose hook registers ELMo."""
    importlib.import_module(f"{_AUTO}.modeling_auto")


def install() -> None:
    """Register with the Auto classes that are already imported, and with others as soon as they are imported."""
    if not any(getattr(finder, "is_elmo_finder", False) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, hook in HOOKS.items():
        if name in sys.modules:
            # Waits if another thread is importing the module.
            module = importlib.import_module(name)
            if not getattr(module.__spec__, "_initializing", False):
                hook(module)
