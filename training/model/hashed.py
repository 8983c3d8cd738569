"""Words as hashed columns, blind to groups: what the word features of all candidates are made by."""

import json
from collections.abc import Callable

from sklearn.feature_extraction.text import HashingVectorizer

from training.model.groups import DIGEST, blind


class BlindHashingVectorizer(HashingVectorizer):
    """scikit-learn's HashingVectorizer, on texts in which `blind` has hidden nations and faiths."""

    def build_preprocessor(self) -> Callable[[str], str]:
        """As scikit-learn's, after `blind`."""
        prepare = super().build_preprocessor()
        return lambda text: str(prepare(blind(text)))

    @property
    def recipe(self) -> str:
        """What the columns depend on besides the text: the parameters and the groups."""
        parameters = {name: str(value) for name, value in self.get_params().items()}
        return json.dumps({**parameters, "groups": DIGEST}, sort_keys=True)
