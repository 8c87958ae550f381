"""Which losses take part, and what is said of probabilities after them."""

import pytest
import torch

from mllm_srec.models.objective import AddedLosses, Objective, probabilities_note


def test_the_default_is_the_article_s_loss_alone():
    objective = Objective()
    assert objective.weights == {"response": 1.0}
    assert not objective.ranks
    assert not objective.has_reference
    value = torch.tensor(0.1234567, requires_grad=True)
    assert torch.equal(objective.total({"response": value}), value)


@pytest.mark.parametrize(
    ("objective", "ranks", "has_reference", "states_probabilities"),
    [
        (Objective("pairwise"), True, False, False),
        (Objective("dpo"), True, True, False),
        (Objective("listwise", AddedLosses(response=0.5)), True, False, True),
        (Objective("response", AddedLosses(softmax_dpo=0.5)), True, True, True),
    ],
)
def test_what_a_loss_needs(objective, ranks, has_reference, states_probabilities):
    found = (objective.ranks, objective.has_reference, objective.states_probabilities)
    assert found == (ranks, has_reference, states_probabilities)


def test_parts_are_weighted():
    objective = Objective("listwise", AddedLosses(response=0.5, dpo=2.0))
    parts = {"listwise": torch.tensor(1.0), "response": torch.tensor(10.0), "dpo": torch.tensor(100.0)}
    assert objective.total(parts).item() == 206


def test_what_is_said_of_probabilities():
    assert probabilities_note(Objective(), 1) is None
    assert "add log(4) = 1.386 to z_yes - z_no" in str(probabilities_note(Objective(), 4))
    assert "model.loss=listwise trains the order of targets" in str(probabilities_note(Objective("listwise"), 1))
    with_answer = Objective("listwise", AddedLosses(response=1.0))
    assert probabilities_note(with_answer, 1) is None
