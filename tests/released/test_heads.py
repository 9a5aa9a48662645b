import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind
from sklearn.metrics import roc_auc_score

from attractor_ae.core.heads import PaperMLPHead
from attractor_ae.core.scores import entropy
from released import arrays

SEEDS = 3


@pytest.mark.slow
def test_the_paper_head_is_as_uncertain_as_the_released_one():
    """Mean entropy and AUROC over seeds; the released ones are scikit-learn's."""
    stored = arrays("heads.npz")
    order = np.argsort(stored["train_labels"], axis=1, kind="stable")
    train = np.take_along_axis(stored["train_codes"].astype(np.float32), order[:, :, None], axis=1)
    labels = torch.from_numpy(np.sort(stored["train_labels"][0]).astype(np.int64))
    found = {"test": [], "fashion": []}  # each (seeds, recursions, images)
    for seed in range(SEEDS):
        head = PaperMLPHead().fit(torch.from_numpy(train), labels, 10, seed)
        for name, entropies in found.items():
            codes = torch.from_numpy(stored[f"{name}_codes"].astype(np.float32))
            p = head.predict_proba(codes.flatten(1, 2), range(3)).unflatten(1, codes.shape[1:3])
            entropies.append(entropy(p).numpy())

    def summary(inside, outside):
        """Return mean entropies and AUROC, each of shape (seeds, recursions)."""
        truth = np.arange(inside.shape[-1] + outside.shape[-1]) < inside.shape[-1]
        scores = -np.concatenate((inside, outside), axis=-1)
        auroc = [[roc_auc_score(truth, s) for s in of_seed] for of_seed in scores]
        return [inside.mean(-1), outside.mean(-1), np.array(auroc)]

    ours = summary(*(np.stack(entropies) for entropies in found.values()))
    theirs = summary(stored["mlp_entropies_test"], stored["mlp_entropies_fashion"])
    for a, b in zip(ours, theirs, strict=True):
        assert ttest_ind(a, b, axis=0).pvalue.min() > 0.002  # nine comparisons
        assert np.abs(a.mean(0) - b.mean(0)).max() < 0.03
