"""What happens beside the steps of a run."""

import torch

from georsr.training.callbacks import HISTORY, CSVHistory


def test_csv_history_keeps_numbers_only(tmp_path):
    # one small tensor kept of every step pins the heap between large ones: 2.6 MB a step
    history = CSVHistory(tmp_path / HISTORY)
    for value in (0.5, 1.5):
        history.on_train_batch_end(None, None, {"loss": torch.tensor(value, requires_grad=True)})
    assert history.losses == [0.5, 1.5]
    assert all(type(loss) is float for loss in history.losses)
