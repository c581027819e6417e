"""Imports the models and configurations, and registers them with transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from modeling_sim.configuration_sim import SimConfig
from modeling_sim.configuration_sim_decoder import SimDecoderConfig
from modeling_sim.feature_extraction_sim import SimFeatureExtractor
from modeling_sim.modeling_sim import (
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
    SimModel,
    SimPreTrainedModel,
)
from modeling_sim.modeling_sim_decoder import SimDecoder
from modeling_sim.objectives_sim import info_nce, kl_to_standard_normal
from modeling_sim.processing_sim import SimImageProcessor, SimTokenizer

_AUTO_CLASSES = {
    AutoModel: SimModel,
    AutoModelForPreTraining: SimForPreTraining,
    AutoModelForImageClassification: SimForSequenceClassification,
    AutoModelForSequenceClassification: SimForSequenceClassification,
    AutoModelForTokenClassification: SimForAudioFrameClassification,
    AutoModelForAudioClassification: SimForSequenceClassification,
    AutoModelForAudioFrameClassification: SimForAudioFrameClassification,
}


def _register() -> None:
    """Registers all classes with the Auto classes, and for saving their code with a checkpoint."""
    AutoConfig.register(SimConfig.model_type, SimConfig, exist_ok=True)
    AutoFeatureExtractor.register(SimConfig, SimFeatureExtractor, exist_ok=True)
    AutoImageProcessor.register(SimConfig, image_processor_classes={"pil": SimImageProcessor}, exist_ok=True)
    AutoTokenizer.register(SimConfig, SimTokenizer, exist_ok=True)
    SimImageProcessor.register_for_auto_class("AutoImageProcessor")
    SimTokenizer.register_for_auto_class("AutoTokenizer")
    SimConfig.register_for_auto_class("AutoConfig")
    SimFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
    SimPreTrainedModel.auto_map = {"AutoConfig": "configuration_sim.SimConfig"}
    for auto_class, model_class in _AUTO_CLASSES.items():
        auto_class.register(SimConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class.__name__)
        SimPreTrainedModel.auto_map[auto_class.__name__] = f"modeling_sim.{model_class.__name__}"
    AutoConfig.register(SimDecoderConfig.model_type, SimDecoderConfig, exist_ok=True)
    AutoModel.register(SimDecoderConfig, SimDecoder, exist_ok=True)
    AutoFeatureExtractor.register(SimDecoderConfig, SimFeatureExtractor, exist_ok=True)
    SimDecoderConfig.register_for_auto_class("AutoConfig")
    SimDecoder.register_for_auto_class("AutoModel")


_register()

__all__ = [
    "SimConfig",
    "SimDecoder",
    "SimDecoderConfig",
    "SimFeatureExtractor",
    "SimForAudioFrameClassification",
    "SimForPreTraining",
    "SimForSequenceClassification",
    "SimImageProcessor",
    "SimModel",
    "SimTokenizer",
    "info_nce",
    "kl_to_standard_normal",
]
