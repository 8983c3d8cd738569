"""The two heads: two classifiers side by side, columns for the whole codebook, temperatures that keep the order."""

import pickle
from typing import Any, Self

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils import column_or_1d
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from training.model.heads import Probabilities, TwoHeads, spread, tempered

N_TOPICS, N_STANCES = 4, 3


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """90 passages of 5 features that tell topic and stance apart, noisily; all labels of both heads occur."""
    rng = np.random.default_rng(7)
    y = np.stack([rng.integers(0, N_TOPICS, 90), rng.integers(0, N_STANCES, 90)], axis=1)
    X = rng.normal(size=(90, 5)) + np.stack([y[:, 0], y[:, 1], -y[:, 0], y[:, 1] == 1, y[:, 0] == 2], axis=1)
    return X, y


def heads(**parameters: object) -> TwoHeads:
    return TwoHeads(**{"n_topics": N_TOPICS, "n_stances": N_STANCES, **parameters})


def distributions(columns: int = 5) -> st.SearchStrategy[Probabilities]:
    """Rows of probabilities, zeros among them."""
    weight = st.one_of(st.just(0.0), st.floats(1e-6, 1))
    rows = arrays(np.float64, (4, columns), elements=weight).filter(lambda rows: bool((rows.sum(axis=1) > 0).all()))
    return rows.map(lambda rows: rows / rows.sum(axis=1, keepdims=True))


class OneColumn(TwoHeads):
    """TwoHeads as scikit-learn's checks can drive it: they know labels of any kind in one column, here those of both
    heads, and read one answer, here that of the stance head."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        check_classification_targets(y)
        labels, positions = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        super().fit(X, np.stack([positions, positions], axis=1), sample_weight)
        self.classes_ = labels
        return self

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(X)[1][:, : len(self.classes_)]

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        return float(np.average(self.predict(X) == y, weights=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output, tags.target_tags.multi_output = True, False
        return tags


@parametrize_with_checks([OneColumn(n_topics=10, n_stances=10)])
def test_they_make_a_scikit_learn_classifier(estimator: Any, check: Any) -> None:
    check(estimator)


def test_they_are_two_separate_classifiers(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    topic, stance = LogisticRegression(C=0.3), LogisticRegression(C=4.0, class_weight="balanced")
    both = heads(topic=topic, stance=stance).fit(X, y)
    scores = both.predict_proba(X)
    for column, (alone, together) in enumerate(zip((topic, stance), scores, strict=True)):
        expected = clone(alone).fit(X, y[:, column])
        np.testing.assert_allclose(together, expected.predict_proba(X), rtol=1e-12)
        np.testing.assert_array_equal(both.predict(X)[:, column], expected.predict(X))


def test_the_classifiers_given_are_left_as_they_were(data: tuple[np.ndarray, np.ndarray]) -> None:
    topic = LogisticRegression()
    fitted = heads(topic=topic).fit(*data)
    assert not hasattr(topic, "coef_")
    assert fitted.topic is topic


def test_without_classifiers_both_heads_are_logistic_regressions(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    plain, named = heads().fit(X, y), heads(topic=LogisticRegression(), stance=LogisticRegression()).fit(X, y)
    for left, right in zip(plain.predict_proba(X), named.predict_proba(X), strict=True):
        np.testing.assert_array_equal(left, right)


def test_sparse_rows_give_what_dense_rows_give(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    dense, sparse = heads().fit(X, y).predict_proba(X), heads().fit(sp.csr_matrix(X), y).predict_proba(sp.csr_matrix(X))
    for left, right in zip(dense, sparse, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)


@pytest.mark.parametrize(
    "classifier",
    [
        pytest.param(RandomForestClassifier(n_estimators=5, random_state=0), id="an ensemble, which has a length"),
        pytest.param(KNeighborsClassifier(), id="one whose fit takes no weights"),
        pytest.param(GaussianNB(), id="one without random state"),
    ],
)
def test_any_classifier_with_probabilities_can_be_a_head(
    classifier: object, data: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = data
    expected = clone(classifier).fit(X, y[:, 0]).predict_proba(X)
    np.testing.assert_allclose(heads(topic=classifier).fit(X, y).predict_proba(X)[0], expected, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_label_that_training_never_showed_has_probability_0(
    temperature: float, data: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = data
    seen = (y[:, 0] != 2) & (y[:, 1] != 0)
    fitted = heads(topic_temperature=temperature, stance_temperature=temperature).fit(X[seen], y[seen])
    topic, stance = fitted.predict_proba(X)
    assert topic.shape == (90, N_TOPICS) and stance.shape == (90, N_STANCES)
    assert (topic[:, 2] == 0).all() and (stance[:, 0] == 0).all()
    assert (topic[:, [0, 1, 3]] > 0).all() and (stance[:, 1:] > 0).all()
    for scores in (topic, stance):
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-12)
    assert set(fitted.predict(X)[:, 0]) <= {0, 1, 3}


def test_spread_puts_each_column_under_its_label() -> None:
    out = spread(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([3, 1]), 5)
    np.testing.assert_array_equal(out, [[0, 0.8, 0, 0.2, 0], [0, 0.4, 0, 0.6, 0]])


@given(distributions())
@settings(deadline=None)
def test_temperature_1_leaves_probabilities_as_they_are(probabilities: Probabilities) -> None:
    np.testing.assert_allclose(tempered(probabilities, 1.0), probabilities, rtol=1e-12, atol=0)


@given(distributions(), st.floats(0.2, 5))
@settings(deadline=None)
def test_no_temperature_moves_the_most_probable_label(probabilities: Probabilities, temperature: float) -> None:
    out = tempered(probabilities, temperature)
    rows = np.arange(len(out))
    # Two labels an ulp apart may become equal; the best one never falls behind.
    np.testing.assert_array_equal(out[rows, probabilities.argmax(axis=1)], out.max(axis=1))
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-12)
    assert (out[probabilities == 0] == 0).all()


@given(distributions(), st.floats(1.01, 5))
@settings(deadline=None)
def test_heat_lowers_the_highest_probability_and_cold_raises_it(probabilities: Probabilities, heat: float) -> None:
    peak = probabilities.max(axis=1)
    assert (tempered(probabilities, heat).max(axis=1) <= peak * (1 + 1e-12)).all()
    assert (tempered(probabilities, 1 / heat).max(axis=1) >= peak * (1 - 1e-12)).all()


def test_each_temperature_concerns_its_own_head(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    fitted = heads().fit(X, y)
    topic, stance = fitted.predict_proba(X)
    fitted.set_params(topic_temperature=2.0)
    np.testing.assert_allclose(fitted.predict_proba(X)[0], np.sqrt(topic) / np.sqrt(topic).sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(fitted.predict_proba(X)[1], stance)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_0_is_refused(temperature: float, data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="stance_temperature"):
        heads(stance_temperature=temperature).fit(*data)


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_y_must_have_two_columns(columns: int, data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=rf"y has shape \(90, {columns}\), expected \(passages, 2\)"):
        heads().fit(data[0], np.zeros((90, columns), int))


def test_y_of_one_dimension_is_refused(data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"y has shape \(90,\)"):
        heads().fit(data[0], data[1][:, 0])


def test_as_many_rows_of_y_as_of_x_are_wanted(data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        heads().fit(data[0], data[1][:-1])


@pytest.mark.parametrize(("column", "head"), [(0, "topic"), (1, "stance")])
@pytest.mark.parametrize("label", [-1, N_TOPICS, 0.5])
def test_a_label_outside_the_codebook_is_refused(
    label: float, column: int, head: str, data: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = data[0], data[1].astype(float)
    y[0, column] = label
    with pytest.raises(ValueError, match=rf"{label}.* as a {head}"):
        heads().fit(X, y)


def test_a_weight_of_0_is_as_if_the_passage_were_not_there(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    weight = (np.arange(90) % 3 > 0).astype(float)
    weighted = heads().fit(X, y, sample_weight=weight).predict_proba(X)
    without = heads().fit(X[weight > 0], y[weight > 0]).predict_proba(X)
    unweighted = heads().fit(X, y).predict_proba(X)
    for left, right, other in zip(weighted, without, unweighted, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)
        assert abs(left - other).max() > 1e-2


def test_weights_that_a_head_cannot_use_are_not_dropped_in_silence(data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(TypeError, match="sample_weight"):
        heads(topic=KNeighborsClassifier()).fit(*data, sample_weight=np.ones(90))


def test_clones_and_copies(data: tuple[np.ndarray, np.ndarray]) -> None:
    fitted = heads(topic=LogisticRegression(C=0.3), stance_temperature=1.7).fit(*data)
    fresh = clone(fitted)
    assert not hasattr(fresh, "topic_")
    assert fresh.topic is not fitted.topic
    assert fresh.get_params()["topic__C"] == 0.3 and fresh.stance_temperature == 1.7
    fresh.set_params(topic__C=9.0)
    assert fitted.topic.C == 0.3
    loaded = pickle.loads(pickle.dumps(fitted))
    for left, right in zip(fitted.predict_proba(data[0]), loaded.predict_proba(data[0]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_asked_before_it_was_fitted_it_says_so() -> None:
    with pytest.raises(NotFittedError):
        heads().predict_proba(np.zeros((1, 5)))


def test_its_score_is_the_share_of_passages_with_both_labels_right(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    fitted = heads().fit(X, y)
    right = [list(row) == list(wanted) for row, wanted in zip(fitted.predict(X), y, strict=True)]
    assert 0 < sum(right) < 90
    assert fitted.score(X, y) == sum(right) / 90
