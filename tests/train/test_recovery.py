"""A dictionary of known features is found again: 1,024 of them in 256 dimensions, about 8 active."""

import monosem as ms
from monosem.data.synthetic import SyntheticDictionary, mean_max_cosine


def test_a_synthetic_dictionary_is_recovered():
    """205,000 activations, each seen once; ``bench/recovery.py`` does it for both kinds of autoencoder, and longer."""
    source = SyntheticDictionary(d_in=256, n_features=1024, active=8, batch_size=512)
    sae = ms.TopKSAE(d_in=256, d_sae=2048, k=8, seed=1)
    before = mean_max_cosine(sae.W_dec, source.features)
    ms.Trainer(sae, ms.TrainConfig(lr=5e-3, batch_size=512, steps=400), progress=False).fit(source)
    assert before < 0.3
    assert mean_max_cosine(sae.W_dec, source.features) >= 0.95
