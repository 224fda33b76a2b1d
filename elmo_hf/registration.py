"""Registration of ELMo with Transformers' Auto classes, without importing Transformers for it.

Each Auto class learns of ELMo when the module that defines it is imported: at once if it has been, otherwise by a hook
on its import.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

# By Auto class: the ELMo class that it builds.
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
    from elmo_hf.model.configuration_elmo import ElmoConfig

    module.AutoConfig.register("elmo", ElmoConfig, exist_ok=True)


def _register_tokenizer(module: ModuleType) -> None:
    from elmo_hf.model.configuration_elmo import ElmoConfig
    from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

    module.AutoTokenizer.register(ElmoConfig, tokenizer_class=ElmoTokenizer, exist_ok=True)


def _register_models(executed: ModuleType) -> None:
    """Register the models, once all of Transformers that they import is there."""
    for name in (*_MODELS_IMPORT, f"{_AUTO}.modeling_auto"):
        module = sys.modules.get(name)
        waits = name.endswith("modeling_auto") if module is None else getattr(module.__spec__, "_initializing", False)
        if waits and module is not executed:
            return  # its own hook will be the one that does it
    half = sys.modules.get("elmo_hf.model.modeling_elmo")
    if half is not None and getattr(half.__spec__, "_initializing", False):
        return  # whoever imports it registers it next
    from elmo_hf.model import modeling_elmo
    from elmo_hf.model.configuration_elmo import ElmoConfig

    for auto, model in MODELS.items():
        getattr(sys.modules[f"{_AUTO}.modeling_auto"], auto).register(
            ElmoConfig, getattr(modeling_elmo, model), exist_ok=True
        )


_AUTO = "transformers.models.auto"
# Modules that models import, and that import the Auto classes themselves.
_MODELS_IMPORT = ("transformers.modeling_utils", "transformers.modeling_layers")
HOOKS: dict[str, Callable[[ModuleType], None]] = {
    f"{_AUTO}.configuration_auto": _register_configuration,
    f"{_AUTO}.tokenization_auto": _register_tokenizer,
    f"{_AUTO}.modeling_auto": _register_models,
    **dict.fromkeys(_MODELS_IMPORT, _register_models),
}


class _Found(importlib.abc.Loader):
    """Loader of a module that has been imported in the meantime."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the hooked modules as the other finders do, and calls their hook once they have been executed."""

    def __init__(self) -> None:
        self._looking_for: str | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.startswith("elmo_hf.model.") and fullname != "elmo_hf.model.configuration_elmo":
            return self._after_auto_classes(fullname)
        hook = HOOKS.get(fullname)
        if hook is None or self._looking_for == fullname:
            return None
        self._looking_for = fullname
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking_for = None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            hook(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    @staticmethod
    def _after_auto_classes(fullname: str) -> importlib.machinery.ModuleSpec | None:
        """Import the Auto classes before any model: a model imports them, and their hook imports all models.

        The other way around, the hook would find a model that is half imported.
        """
        if f"{_AUTO}.modeling_auto" in sys.modules:
            return None
        importlib.import_module(f"{_AUTO}.modeling_auto")
        module = sys.modules.get(fullname)
        return None if module is None else importlib.machinery.ModuleSpec(fullname, _Found(module))


def install() -> None:
    """Register with the Auto classes that are imported already, and with the others when they will be."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, hook in HOOKS.items():
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            hook(module)
