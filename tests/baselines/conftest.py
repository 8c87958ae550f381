"""Small worlds for baselines, by numbers: chains, clusters, and a plain training loop without Lightning."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.parts.train_data import ItemFeatures, TrainData


def left_padded(sequences, length):
    """Latest `length` items of each sequence, (B, length), zeros on the left."""
    rows = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in zip(rows, sequences, strict=True):
        kept = list(sequence)[-length:]
        if kept:
            row[length - len(kept) :] = torch.tensor(kept)
    return rows


def train_data(sequences, n_items, features=None, disliked=()):
    """TrainData of liked sequences (user u is row u - 1), and disliked (user, item) pairs."""
    rows = [
        (user, step, item, True)
        for user, sequence in enumerate(sequences, start=1)
        for step, item in enumerate(sequence)
    ] + [(user, 10**6, item, False) for user, item in disliked]
    rows.sort(key=lambda row: row[:2])
    user, step, item, liked = (np.array(column) for column in zip(*rows, strict=True))
    return TrainData(user, item, liked.astype(bool), step * 86_400_000, len(sequences), n_items, features)


def markov_chains(n_users=200, n_items=30, length=10, seed=0):
    """Sequences in which item i is always followed by item i + 1 (and the last by the first)."""
    starts = np.random.default_rng(seed).integers(1, n_items + 1, n_users)
    return [[(start - 1 + step) % n_items + 1 for step in range(length)] for start in starts]


def item_batch(histories, candidates=None, users=None, n_items=None, length=12, timestamp=10**15):
    """An ItemBatch of these histories; without candidates, the whole catalogue of `n_items`."""
    n = len(histories)
    whole = candidates is None
    index = torch.arange(n_items).expand(n, -1) if whole else torch.as_tensor(candidates) - 1
    batch = {
        "group_id": torch.arange(n),
        "candidate_mask": index >= 0,
        "relevance": torch.zeros_like(index),
        "kind": torch.full_like(index, 2),
        "item_index": index,
        "n_missed": torch.zeros(n, dtype=torch.long),
        "user": torch.arange(1, n + 1) if users is None else torch.as_tensor(users),
        "history": left_padded(histories, length),
        "timestamp": torch.full((n,), timestamp),
    }
    return {**batch, "catalogue": True} if whole else batch


def train_batches(model, train, batch_size, seed):
    """Endless TrainBatches of the model's unit."""
    random = np.random.default_rng(seed)
    examples = []
    for user, sequence in train.sequences.items():
        if model.unit == "sequences":
            examples.append((user, sequence, None))
        else:
            examples += [(user, sequence[:place], sequence[place]) for place in range(len(sequence))]
    while True:
        order = random.permutation(len(examples))
        for begin in range(0, len(order), batch_size):
            chosen = [examples[i] for i in order[begin : begin + batch_size]]
            length = model.max_history + (model.unit == "sequences")
            batch = {
                "user": torch.tensor([user for user, _, _ in chosen]),
                "history": left_padded([sequence for _, sequence, _ in chosen], length),
            }
            if model.unit == "targets":
                batch["target"] = torch.tensor([int(target) for _, _, target in chosen])
            yield batch


def trained(model, train, steps=200, batch_size=64, seed=0):
    """The model, attached and trained without a Trainer, in evaluation mode."""
    model.attach(train, seed)
    optimizer = model.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    model.train()
    batches = train_batches(model, train, batch_size, seed)
    for step in range(steps):
        torch.manual_seed(seed * 1_000_003 + step)
        optimizer.zero_grad()
        model.loss(next(batches)).backward()
        optimizer.step()
    return model.eval()


def one_gradient(model, train, seed=0):
    """Name -> gradient of every trainable tensor after one backward pass."""
    model.attach(train, seed)
    model.train()
    torch.manual_seed(seed)
    model.loss(next(train_batches(model, train, 64, seed))).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def clustered():
    """A world where only the picture tells what is liked: users like one of four visual clusters; items 41.. are cold.

    Returns:
        (TrainData, labels of items 1..N as (N + 1,) array, liked cluster of each user as (U + 1,) array).
    """
    random = np.random.default_rng(0)
    n_items, n_users, n_clusters = 60, 120, 4
    cluster = np.concatenate([[-1], random.integers(0, n_clusters, n_items)])
    taste = np.concatenate([[-1], random.integers(0, n_clusters, n_users)])
    centres = np.eye(n_clusters, 16) * 3
    image = centres[cluster] + random.normal(0, 0.3, (n_items + 1, 16))
    image[0] = 0
    image /= np.maximum(np.linalg.norm(image, axis=1, keepdims=True), 1e-12)
    text = random.normal(0, 1, (n_items + 1, 12))  # says nothing
    text[0] = 0
    text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
    features = ItemFeatures(image.astype(np.float32), text.astype(np.float32), "synthetic clusters")
    warm = np.arange(1, 41)
    sequences = [random.permutation(warm[cluster[warm] == taste[user]])[:6].tolist() for user in range(1, n_users + 1)]
    return train_data(sequences, n_items, features), cluster, taste
