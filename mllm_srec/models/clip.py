"""CLIP similarity of summaries with what they are about: the article's measure of hallucination (its Fig. 6a)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mllm_srec.families.config_file import first_line, hub_given_up_early
from mllm_srec.prompts.encoding import PlainText
from mllm_srec.types import ConfigError, DataError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ClipSimilarity:
    """Cosine similarities of N summaries, in [-1, 1]; NaN where one of the two sides is missing.

    Attributes:
        text: `(N,)` similarity of summary and other text, float32.
        picture: `(N,)` similarity of summary and picture, float32.
        n_cut: Number of summaries that were too long for CLIP and were cut.
        n_cut_other: Number of other texts that were cut.
    """

    text: np.ndarray
    picture: np.ndarray
    n_cut: int
    n_cut_other: int

    def numbers(self) -> dict[str, int | float | None]:
        """Return means over the pairs compared (None where there is none), and numbers of pairs."""
        return {
            "clip_text": _mean(self.text),
            "clip_picture": _mean(self.picture),
            "n_clip_text": int((~np.isnan(self.text)).sum()),
            "n_clip_picture": int((~np.isnan(self.picture)).sum()),
            "n_clip_cut_summaries": self.n_cut,
            "n_clip_cut_texts": self.n_cut_other,
        }


def clip_similarity(
    name: str,
    revision: str | None,
    texts: Sequence[str | None],
    other_texts: Sequence[str | None],
    pictures: Sequence[np.ndarray | None],
    device: torch.device = CPU,
    batch_size: int = 64,
) -> ClipSimilarity:
    """Compare each summary with the text and the picture of its item, in float32.

    CLIP reads the first 75 tokens of a text (77 with the two at its ends); longer texts are cut and counted.

    Args:
        name: Hub name or folder of a CLIP model.
        revision: Revision of a hub model.
        texts: N summaries of pictures; None or blank where there is none.
        other_texts: N texts of the same items; None or blank where there is none.
        pictures: N pictures, uint8 `(height, width, 3)`; None where there is none. They are read a batch at a time.
        device: Device of the model.
        batch_size: Texts or pictures per batch, at least 1.

    Raises:
        ConfigError: The model cannot be read, or is no CLIP.
        DataError: The sequences differ in length, or a picture is no such array.
    """
    if not len(texts) == len(other_texts) == len(pictures):
        raise DataError(
            f"clip_similarity: got {len(texts)} texts, {len(other_texts)} other_texts and {len(pictures)} pictures; "
            "give one of each per item, None where there is none"
        )
    reader = _ClipReader(name, revision, device, batch_size)
    summaries, n_cut = reader.embed_texts(texts)
    others, n_cut_other = reader.embed_texts(other_texts)
    return ClipSimilarity(
        text=cosine_rows(summaries, others).numpy(),
        picture=cosine_rows(summaries, reader.embed_pictures(pictures)).numpy(),
        n_cut=n_cut,
        n_cut_other=n_cut_other,
    )


def cosine_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute the cosine similarity `(N,)` of the rows of `a` and `b`, `(N, D)` each; 0 for a row of zeros.

    Raises:
        DataError: The shapes differ.
    """
    if a.shape != b.shape:
        raise DataError(f"cosine_rows: a has shape {tuple(a.shape)}, b {tuple(b.shape)}; give equal shapes (N, D)")
    return (functional.normalize(a, dim=-1) * functional.normalize(b, dim=-1)).sum(dim=-1).clamp(-1, 1)


class _ClipReader:
    """A loaded CLIP model with its tokenizer and image processor."""

    def __init__(self, name: str, revision: str | None, device: torch.device, batch_size: int) -> None:
        self._model, self._tokenizer, self._processor = _load(name, revision)
        self._model.to(device)
        self._plain = PlainText(self._tokenizer)  # a title that holds <|endoftext|> must not end there
        self._device, self._batch_size = device, batch_size

    def embed_texts(self, texts: Sequence[str | None]) -> tuple[torch.Tensor, int]:
        """Embed texts as `(N, D)`, NaN where there is none, and count those that were cut."""
        config, ends = self._model.config.text_config, 2
        places = [place for place, text in enumerate(texts) if text and text.strip()]
        ids = {place: self._plain.encode(texts[place] or "") for place in places}
        room = config.max_position_embeddings - ends
        n_cut = sum(len(tokens) > room for tokens in ids.values())

        def embed(batch: Sequence[int]) -> torch.Tensor:
            input_ids, mask = self._padded([ids[place][:room] for place in batch])
            output = self._model.get_text_features(input_ids=input_ids, attention_mask=mask)
            features: torch.Tensor = output.pooler_output
            return features

        return self._embed(len(texts), places, embed), n_cut

    def embed_pictures(self, pictures: Sequence[np.ndarray | None]) -> torch.Tensor:
        """Embed pictures as `(N, D)`, NaN where there is none."""
        places = [place for place, picture in enumerate(pictures) if picture is not None]

        def embed(batch: Sequence[int]) -> torch.Tensor:
            arrays = [_checked(pictures[place], place) for place in batch]
            inputs = self._processor(images=arrays, input_data_format="channels_last", return_tensors="pt")
            output = self._model.get_image_features(pixel_values=inputs["pixel_values"].to(self._device))
            features: torch.Tensor = output.pooler_output
            return features

        return self._embed(len(pictures), places, embed)

    def _padded(self, ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Add both end tokens, pad with the second (CLIP reads its first occurrence), and mask: `(B, T)` each."""
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        rows = [torch.tensor([begin, *tokens, end]) for tokens in ids]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end)  # (B, T)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(input_ids.shape[1]) < lengths[:, None]  # (B, T)
        return input_ids.to(self._device), mask.long().to(self._device)

    @torch.inference_mode()
    def _embed(
        self, n_rows: int, places: Sequence[int], embed: Callable[[Sequence[int]], torch.Tensor]
    ) -> torch.Tensor:
        rows = torch.full((n_rows, self._model.config.projection_dim), torch.nan)  # (N, D)
        for start in range(0, len(places), self._batch_size):
            batch = places[start : start + self._batch_size]
            rows[torch.tensor(batch)] = embed(batch).float().cpu()
        return rows


def _load(name: str, revision: str | None) -> tuple[Any, Any, Any]:
    """Load model in float32, tokenizer and image processor (the PIL class, which needs no torchvision)."""
    try:
        with hub_given_up_early(name):
            config = AutoConfig.from_pretrained(name, revision=revision)
            if config.model_type != "clip":
                raise ValueError(f"it is of type {config.model_type!r}, not 'clip'")
            model, loaded = CLIPModel.from_pretrained(
                name, revision=revision, dtype=torch.float32, output_loading_info=True
            )
            if loaded["missing_keys"]:
                raise ValueError(f"weights are missing, such as {sorted(loaded['missing_keys'])[0]}")
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            processor = CLIPImageProcessorPil.from_pretrained(name, revision=revision)
    except Exception as error:  # transformers, safetensors and torch raise almost any type here
        raise ConfigError(
            f"summaries.clip={name!r} (revision {revision}): cannot be used: {first_line(error)}; give a folder with a "
            "CLIP model's config, weights, tokenizer and preprocessor_config.json, or the name of a hub model that is "
            "reachable or cached, such as openai/clip-vit-base-patch32"
        ) from error
    return model.eval(), tokenizer, processor


def _checked(picture: np.ndarray | None, place: int) -> np.ndarray:
    """Return a picture after checking type and shape."""
    if picture is None or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        found = "None" if picture is None else f"{picture.dtype} {picture.shape}"
        raise DataError(f"clip_similarity: pictures[{place}] is {found}; give RGB as uint8 (height, width, 3)")
    return picture


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else None
