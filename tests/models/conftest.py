"""A tiny Llama with its own tokenizer and chat template, and the answers that plain forward passes give."""

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import ImageStore, build_image_store, load_image_processor
from mllm_srec.data.settings import PictureSettings

LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TEXTS = ["Please summarize the item: a red mug with dots, a blue lamp with stripes, user preference"] * 20


def llama_tokenizer():
    """Byte-level BPE with the control tokens and a chat template like Llama 3's."""
    core = Tokenizer(BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=350, initial_alphabet=alphabet, show_progress=False))
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )
    tokenizer.chat_template = LLAMA_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def write_llama(tmp_path_factory: pytest.TempPathFactory):
    """Function that writes a folder of an untrained Llama of 2 layers and width 64."""

    def write(tied: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("llama")
        tokenizer = llama_tokenizer()
        tokenizer.save_pretrained(str(folder))
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            initializer_range=0.2,  # wide: so that texts differ and do not repeat one token
        )
        with torch.random.fork_rng():
            torch.manual_seed(3)
            LlamaForCausalLM(config).save_pretrained(str(folder))
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_llama(write_llama) -> Path:
    """Folder of a tiny untrained Llama."""
    return write_llama()


@pytest.fixture(scope="session")
def oracle():
    """Function that answers one chat by full forward passes and argmax: no padding, no cache, no `generate`."""

    @torch.no_grad()
    def answer(net, ids: list[int], n_new: int, stop_ids: list[int], **vision) -> list[int]:
        ids, image_token_id = list(ids), getattr(net.config, "image_token_id", -1)
        begin = len(ids)
        while len(ids) < begin + n_new and not (len(ids) > begin and ids[-1] in stop_ids):
            row = torch.tensor([ids])
            kinds = {"mm_token_type_ids": (row == image_token_id).long()} if vision else {}
            logits = net(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False, **kinds, **vision).logits
            ids.append(int(logits[0, -1].argmax()))
        return ids[begin:]

    return answer


@pytest.fixture(scope="session")
def shop_images(shop: PreparedDataset, tiny_backbone: Path) -> ImageStore:
    """The small shop's pictures, of three sizes."""
    processor = load_image_processor(str(tiny_backbone), None, PictureSettings(max_pixels=16 * 28 * 28))
    return build_image_store(shop.folder, processor, shop.items)


@pytest.fixture(scope="session")
def liven():
    """Function that gives a net large random weights, so that its answers vary and depend on pictures and places."""

    def fill(net):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2, generator=generator)
            head = torch.randn(net.lm_head.weight.shape, generator=generator)
        net.lm_head.weight = torch.nn.Parameter(head)  # of its own: tied to the embeddings, it repeats its input
        return net

    return fill
