"""MMSR's graphs, built at once, against graphs built edge by edge in plain Python."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mllm_srec.baselines.parts.mmsr_graph import build_graphs, distinct
from tests.baselines.conftest import left_padded

N_ITEMS, N_CODES = 9, 4


def random_links(n_links, random):
    """Codes of items (N + 1, 2 k) as node numbers; some items lack a modality."""
    links = np.zeros((N_ITEMS + 1, 2 * n_links), int)
    for item in range(1, N_ITEMS + 1):
        for modality in (0, 1):
            if random.random() < 0.75:
                chosen = random.choice(N_CODES, n_links, replace=False) + 1 + N_ITEMS + modality * N_CODES
                links[item, modality * n_links : (modality + 1) * n_links] = chosen
    return links


def slow_graph(history, links, n_links):
    """Kinds {node: kind}, places {node: set}, edges {(node, node): type} of one history, by walking through it."""
    image = {item: [c for c in links[item, :n_links].tolist() if c] for item in history}
    text = {item: [c for c in links[item, n_links:].tolist() if c] for item in history}
    kinds, places, edges, steps = {}, {}, {}, set()
    for place, item in enumerate(history):
        for kind, group in ((1, [item]), (2, image[item]), (3, text[item])):
            for node in group:
                kinds[node] = kind
                places.setdefault(node, set()).add(place)
                edges[node, node] = 1
        for code in image[item]:
            edges[item, code], edges[code, item] = 5, 6
            for word in text[item]:
                edges[code, word], edges[word, code] = 9, 10
        for word in text[item]:
            edges[item, word], edges[word, item] = 7, 8
    for before, after in pairwise(history):
        for first, second in (([before], [after]), (image[before], image[after]), (text[before], text[after])):
            steps |= {(a, b) for a in first for b in second if a != b}
    for a, b in steps:
        edges[a, b], edges[b, a] = (4, 4) if (b, a) in steps else (2, 3)
    return kinds, places, edges


@pytest.mark.parametrize("n_links", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_every_edge(n_links, seed):
    random = np.random.default_rng(seed)
    links = random_links(n_links, random)
    histories = [random.integers(1, N_ITEMS + 1, random.integers(0, 9)).tolist() for _ in range(40)] + [[5, 5, 2, 5]]
    graphs = build_graphs(left_padded(histories, 10), torch.from_numpy(links), N_ITEMS, N_CODES)
    seen = set()
    for row, history in enumerate(histories):
        kinds, places, edges = slow_graph(history, links, n_links)
        nodes = graphs.nodes[row].tolist()
        assert sorted(n for n in nodes if n) == sorted(kinds)
        for i, a in enumerate(nodes):
            assert graphs.kinds[row, i] == kinds.get(a, 0)
            assert {p - 10 + len(history) for p in graphs.occurs[row, i].nonzero().flatten().tolist()} == places.get(
                a, set()
            )
            for j, b in enumerate(nodes):
                assert graphs.edges[row, i, j] == (edges.get((a, b), 0) if a and b else 0), (history, a, b)
        if history:
            assert nodes[graphs.last[row]] == history[-1]
        seen |= set(edges.values())
    assert seen == set(range(1, 11))  # all types were tried
    assert graphs.nodes.shape[1] == max(len(slow_graph(history, links, n_links)[0]) for history in histories)


def test_repeated_items_keep_the_steps_of_their_codes():
    links = np.zeros((N_ITEMS + 1, 4), int)
    links[1, :2] = [10, 11]  # one item with two picture codes, twice in a row: each code follows the other
    graphs = build_graphs(torch.tensor([[1, 1]]), torch.from_numpy(links), N_ITEMS, N_CODES)
    assert graphs.nodes.tolist() == [[11, 10, 1]]
    assert graphs.edges.tolist() == [[[1, 4, 6], [4, 1, 6], [5, 5, 1]]]


def test_histories_without_anything():
    graphs = build_graphs(torch.zeros(2, 3, dtype=torch.long), torch.zeros(4, 2, dtype=torch.long), 3, 1)
    assert graphs.nodes.tolist() == [[0], [0]]
    assert graphs.edges.tolist() == [[[0]], [[0]]]


def test_distinct_numbers():
    found = distinct(torch.tensor([[0, 3, 3, 1, 0], [7, 7, 7, 7, 7], [0, 0, 0, 0, 0]]))
    assert found.tolist() == [[3, 1], [7, 0], [0, 0]]
