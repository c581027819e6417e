"""Image processor and tokenizer of the Smooth InfoMax models, and the choice of a model's processor."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AddedToken, PreTrainedTokenizer
from transformers.image_processing_backends import PilBackend

from .configuration_sim import POSITION_RATE, SimConfig, check_vocabulary
from .feature_extraction_sim import SimFeatureExtractor


class SimImageProcessor(PilBackend):
    """Converts images to `pixel_values` `(batch, channels, height, width)` in [-1, 1].

    The settings are those of transformers' image processors, for example `do_resize` and `size` for images of several
    sizes, and one more:

    Args:
        num_channels: 1 converts images to gray, 3 to color; PIL images only.
    """

    model_input_names = ["pixel_values", "attention_mask"]
    sampling_rate = POSITION_RATE
    num_channels = 3
    resample = 3  # bicubic, as the corpus `hub` resizes images
    do_rescale = do_normalize = True
    image_mean = image_std = 0.5

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """An image processor with saved settings.

        Raises:
            ValueError: They are those of a feature extractor, whose file has the same name; `AutoProcessor` then looks
                for it.
        """
        if "feature_extractor_type" in image_processor_dict:
            saved = image_processor_dict["feature_extractor_type"]
            raise ValueError(f"preprocessor_config.json holds settings of {saved}, not of an image processor.")
        return super().from_dict(image_processor_dict, **kwargs)

    def process_image(self, image: Any, **kwargs: Any) -> np.ndarray:  # type: ignore[override]
        """An image as an array `(channels, height, width)`.

        Raises:
            ValueError: The image has mode "I" or "F", of 32 bits, whose range is not known.
        """
        if hasattr(image, "convert"):
            if image.mode in ("I", "F"):
                raise ValueError(
                    f"`images` has one of mode {image.mode!r}, of unknown range; convert it to 8 or 16 bits."
                )
            if image.mode.startswith("I;16"):  # which `convert` would clip
                image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5)
            image = image.convert("L" if self.num_channels == 1 else "RGB")
        return super().process_image(image, **kwargs)


class SimTokenizer(PreTrainedTokenizer):
    """One token per symbol of a text: characters, bytes, or phones separated by spaces; see `SimConfig.vocabulary`.

    Args:
        vocabulary: The symbols, with ids from 1; empty for bytes. Other symbols get the id 0, like padding.
        pad_token: Text of the id 0.
        vocab_file: File of the symbols, as `save_pretrained` writes it; replaces `vocabulary`.
        kwargs: Further arguments of `PreTrainedTokenizer`.

    Raises:
        ValueError: A symbol is empty or there twice, or has a space although symbols are separated by spaces.

    Example:
        >>> from modeling_sim import SimTokenizer
        >>> SimTokenizer(vocabulary=["HH", "AH", "L", "OW"])("HH AH L OW")["input_ids"]
        [1, 2, 3, 4]
    """

    vocab_files_names = {"vocab_file": "vocabulary.json"}
    model_input_names = ["input_ids", "attention_mask"]
    sampling_rate = POSITION_RATE

    def __init__(
        self,
        vocabulary: Sequence[str] = (),
        pad_token: str = "<pad>",  # noqa: S107
        vocab_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_file = vocab_file
        if vocab_file is not None:
            vocabulary = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        check_vocabulary(vocabulary)
        self.is_bytes, self.has_spaces = not vocabulary, any(len(symbol) > 1 for symbol in vocabulary)
        self.symbols = [str(pad_token), *(vocabulary or map(chr, range(256)))]
        self.ids = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._added_tokens_decoder = {0: AddedToken(str(pad_token), special=True)}
        super().__init__(pad_token=pad_token, special_tokens_pattern="none", **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads a saved tokenizer.

        Raises:
            OSError: The checkpoint has no tokenizer, for example because it is a model of speech; `AutoProcessor` then
                looks for another processor.
        """
        found = super().from_pretrained(*args, **kwargs)
        tokenizer = found[0] if isinstance(found, tuple) else found
        if tokenizer.vocab_file is None:
            raise OSError(f"{tokenizer.name_or_path} has no {cls.vocab_files_names['vocab_file']}.")
        return found

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.symbols)

    def get_vocab(self) -> dict[str, int]:
        """Mapping from symbols to ids; a byte is represented by the character with its number."""
        return dict(self.ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        if self.is_bytes:
            return list(text.encode().decode("latin-1"))
        return text.split() if self.has_spaces else list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return self.symbols[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of symbols."""
        if self.is_bytes:
            return "".join(tokens).encode("latin-1").decode(errors="replace")
        return (" " if self.has_spaces else "").join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes the symbols; returns the path of the file."""
        name = self.vocab_files_names["vocab_file"]
        path = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
        path.write_text(json.dumps([] if self.is_bytes else self.symbols[1:]), encoding="utf-8")
        return (str(path),)


def new_processor(config: SimConfig) -> "SimFeatureExtractor | SimImageProcessor | SimTokenizer":
    """The processor that converts the inputs of a new model.

    Raises:
        ValueError: `image_channels` are neither those of gray images nor those of color images.
    """
    if config.input_kind == "patches":
        if config.image_channels not in (1, 3):
            raise ValueError(f"`image_channels` is {config.image_channels}; the image processor gives 1 or 3.")
        return SimImageProcessor(num_channels=config.image_channels)  # type: ignore[call-arg]
    if config.input_kind == "tokens":
        return SimTokenizer(vocabulary=config.vocabulary)
    return SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())


__all__ = ["SimImageProcessor", "SimTokenizer", "new_processor"]
