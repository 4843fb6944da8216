"""Saved posteriors: what is read is what was written, and what does not fit is not fused."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg.ensemble import EnsembleOptions, ensemble, ranked_pairs, read_posteriors
from vgg.metrics.rows import BLOCK_ROWS
from vgg.reporting.publish import publish
from vgg.testing import posteriors
from vgg.testing.posterior_rows import PosteriorFile
from vgg.testing.posteriors import Posteriors, describe, mean
from vgg.testing.probabilities import why_no_probabilities
from vgg.testing.provenance import EnsembleMember, Provenance


def member(net="d-1", scale=256, protocol="dense", weights=None):
    return EnsembleMember(
        net, weights or f"sha of {net}", "paper-d", "D", "256", protocol, scale, "scores", 1, "fp32"
    )


def made_up(seed, of=None, images=60, classes=5):
    rng = np.random.default_rng(seed)
    odds_NK = rng.exponential(1, (images, classes))
    provenance = Provenance(
        "digest of the data",
        "photos",
        "val",
        tuple("abcde"[:classes]),
        tuple("ABCDE"[:classes]),
        ((of or member(), 1.0),),
    )
    labels_N = np.random.default_rng(0).integers(0, classes, images).astype(np.int32)
    posteriors_NK = (odds_NK / odds_NK.sum(1, keepdims=True)).astype(np.float32)
    return Posteriors(provenance, tuple(f"é{i}.jpg" for i in range(images)), labels_N, posteriors_NK)


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path))


def test_what_is_read_is_what_was_written(folder):
    written = made_up(1)
    digest = posteriors.write(folder, "p.arrow", written)
    found = posteriors.read(folder, "p.arrow")
    assert (found.provenance, found.keys, found.digest) == (written.provenance, written.keys, digest)
    np.testing.assert_array_equal(found.posteriors_NK, written.posteriors_NK)
    np.testing.assert_array_equal(found.labels_N, written.labels_N)


def test_any_changed_byte_is_reported(folder, tmp_path):
    """In what is kept by the digest, elsewhere by Arrow: never a crash, never taken for what it was."""
    posteriors.write(folder, "p.arrow", made_up(1))
    file = tmp_path / "p.arrow"
    sound, expected = file.read_bytes(), posteriors.read(folder, "p.arrow")
    rng = np.random.default_rng(0)
    reported = 0
    for place in rng.integers(0, len(sound), 400):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << rng.integers(0, 8)
        file.write_bytes(damaged)
        with suppress(UserError):
            found = posteriors.read(folder, "p.arrow")
            assert found.digest == expected.digest  # padding, or a word that says no more than others do
            continue
        reported += 1
    assert reported > 200


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_truncated_file_is_reported(folder, tmp_path, size):
    posteriors.write(folder, "p.arrow", made_up(1))
    (tmp_path / "p.arrow").write_bytes((tmp_path / "p.arrow").read_bytes()[:size])
    with pytest.raises(UserError, match=r"p\.arrow"):
        posteriors.read(folder, "p.arrow")


@pytest.mark.parametrize("metadata", [None, b"no JSON", b"[1]", b'{"format": 1}', b'{"format": 2}'])
def test_another_arrow_file_is_reported(folder, metadata):
    """Of another program, of another version, or with metadata that are none."""
    table = pa.table({"key": ["a"], "label": [1]})
    if metadata is not None:
        table = table.replace_schema_metadata({"vgg.posteriors": metadata})
    with folder.writing("p.arrow") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=r"p\.arrow"):
        posteriors.read(folder, "p.arrow")


def test_a_missing_file_is_reported(folder):
    with pytest.raises(UserError, match=r"no file .*p\.arrow"):
        posteriors.read(folder, "p.arrow")


def test_an_ensemble_of_one_net_is_that_net(folder, tmp_path):
    one = made_up(1)
    posteriors.write(folder.child("one"), "posteriors.arrow", one)
    out = ensemble(EnsembleOptions((str(tmp_path / "one"),), str(tmp_path / "out"))).folder
    fused = posteriors.read(out, "posteriors.arrow")
    np.testing.assert_array_equal(fused.posteriors_NK, one.posteriors_NK)
    assert fused.provenance == one.provenance


def test_the_mean_weighs_all_alike(folder):
    first, second, third = (made_up(seed, member(f"d-{seed}")) for seed in (1, 2, 3))
    fused = mean([first, second, third])
    expected = (first.posteriors_NK.astype(np.float64) + second.posteriors_NK + third.posteriors_NK) / 3
    np.testing.assert_allclose(fused.posteriors_NK, expected, atol=1e-7)
    assert dict(fused.provenance.members) == {member(f"d-{seed}"): pytest.approx(1 / 3) for seed in (1, 2, 3)}
    again = mean([mean([first, second]), third])
    assert dict(again.provenance.members)[member("d-1")] == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: replace(p, provenance=replace(p.provenance, data="another digest")), "different data sets"),
        (lambda p: replace(p, provenance=replace(p.provenance, split="train")), "different splits"),
        (lambda p: replace(p, provenance=replace(p.provenance, classes=tuple("bacde"))), "different orders"),
        (lambda p: replace(p, provenance=replace(p.provenance, classes=tuple("vwxyz"))), "different classes"),
        (lambda p: replace(p, keys=p.keys[::-1]), "different images"),
        (lambda p: replace(p, labels_N=p.labels_N[::-1].copy()), "different images"),
    ],
)
def test_what_does_not_fit_is_not_fused(folder, tmp_path, change, reason):
    posteriors.write(folder.child("one"), "posteriors.arrow", made_up(1))
    posteriors.write(folder.child("other"), "posteriors.arrow", change(made_up(2, member("e-1"))))
    tests = (str(tmp_path / "one"), str(tmp_path / "other"))
    with pytest.raises(UserError, match=rf"d-1 dense 256 and e-1 dense 256 cannot be fused: .*{reason}"):
        ensemble(EnsembleOptions(tests, str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_order_of_the_terms_changes_nothing():
    """Sums of three numbers may round differently in another order."""
    tests = [made_up(seed, member(f"d-{seed}")) for seed in range(5)]
    expected = mean(tests)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert mean([tests[i] for i in order]).digest == expected.digest


def test_many_images_are_fused_a_block_at_a_time(folder, tmp_path, monkeypatch):
    """Opened, fused, counted and written without ever holding more rows than a block; the same in memory."""
    images = 2 * BLOCK_ROWS + 5
    tests = [made_up(seed, member(f"d-{seed}"), images) for seed in range(3)]
    for i, test in enumerate(tests):
        posteriors.write(folder.child(str(i)), "posteriors.arrow", test)
    read_rows, most = PosteriorFile.__getitem__, []

    def watched(self, rows):
        most.append(rows.stop - rows.start)
        return read_rows(self, rows)

    monkeypatch.setattr(PosteriorFile, "__getitem__", watched)
    names = tuple(str(tmp_path / str(i)) for i in range(3))
    result = ensemble(EnsembleOptions(names, str(tmp_path / "out"))).result
    assert max(most) == BLOCK_ROWS
    monkeypatch.undo()
    fused = posteriors.read(folder, "out/posteriors.arrow")
    expected_NK = np.mean([test.posteriors_NK for test in tests], axis=0, dtype=np.float64)
    np.testing.assert_array_equal(fused.posteriors_NK, expected_NK.astype(np.float32))
    assert fused.keys == tests[0].keys
    best_N = expected_NK.argmax(1)
    assert result["top1_wrong"] == int((best_N != tests[0].labels_N).sum())
    file = pa.ipc.open_file(tmp_path / "out" / "posteriors.arrow")
    assert [file.get_batch(i).num_rows for i in range(file.num_record_batches)] == [BLOCK_ROWS, BLOCK_ROWS, 5]


def test_a_file_of_one_large_batch_is_read_a_block_at_a_time(folder, tmp_path):
    """As earlier versions wrote."""
    written = made_up(1, images=BLOCK_ROWS + 9)
    posteriors.write(folder, "p.arrow", written)
    table = pa.ipc.open_file(tmp_path / "p.arrow").read_all().combine_chunks()
    with pa.ipc.new_file(tmp_path / "p.arrow", table.schema) as writer:
        writer.write_table(table)
    found = posteriors.open_file(folder, "p.arrow")
    np.testing.assert_array_equal(found.posteriors_NK[slice(1990, 2009)], written.posteriors_NK[1990:2009])
    assert found.digest == written.digest


def test_a_file_that_is_replaced_stays_what_it_was(folder):
    posteriors.write(folder, "p.arrow", made_up(1))
    opened = posteriors.open_file(folder, "p.arrow")
    posteriors.write(folder, "p.arrow", made_up(2))
    np.testing.assert_array_equal(np.asarray(opened.posteriors_NK), made_up(1).posteriors_NK)


def test_a_file_that_is_cut_short_is_an_error_not_a_signal(folder, tmp_path):
    posteriors.write(folder, "p.arrow", made_up(1))
    opened = posteriors.open_file(folder, "p.arrow")
    with (tmp_path / "p.arrow").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"p\.arrow was cut short"):
        opened.posteriors_NK[slice(0, 60)]


def test_posteriors_on_a_store_are_opened(object_store):
    folder = Folder(object_store.uri("posteriors-test"))
    posteriors.write(folder, "p.arrow", made_up(1))
    assert posteriors.open_file(folder, "p.arrow").digest == made_up(1).digest


def test_the_best_pair_has_the_fewest_errors(folder, tmp_path):
    tests = [made_up(seed, member(f"d-{seed}")) for seed in range(6)]
    found = ranked_pairs(tests)
    assert len(found) == 15
    wrong = {}
    for i in range(6):
        for j in range(i):
            best_N = (tests[i].posteriors_NK + tests[j].posteriors_NK).argmax(1)
            wrong[j, i] = int((best_N != tests[0].labels_N).sum())
    assert found[0][1].top1_wrong == min(wrong.values())
    assert {pair: scored.top1_wrong for pair, scored in found} == wrong

    for i, test in enumerate(tests):
        posteriors.write(folder.child(str(i)), "posteriors.arrow", test)
    names = tuple(str(tmp_path / str(i)) for i in range(6))
    result = ensemble(EnsembleOptions(names, str(tmp_path / "out"), best_pair=True)).result
    assert result["top1_wrong"] == min(wrong.values())
    assert len(result["members"]) == 2
    assert result["kind"] == "ensemble"


def test_ties_of_the_best_pair_are_broken_by_names(folder, tmp_path):
    """Whatever order the results are given in: fewest errors, then the names."""
    right = made_up(1).labels_N
    sure_NK = np.eye(5, dtype=np.float32)[right]
    tests = [replace(made_up(1, member(f"d-{name}")), posteriors_NK=sure_NK) for name in "cbda"]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        given = [tests[i] for i in order]
        first, second = ranked_pairs(given)[0][0]
        assert {describe(given[first]), describe(given[second])} == {"d-a dense 256", "d-b dense 256"}


def test_a_test_is_not_fused_with_itself(folder, tmp_path):
    """Neither by the same path nor from a copy: a member would weigh twice."""
    for name in ("one", "copy"):
        posteriors.write(folder.child(name), "posteriors.arrow", made_up(1))
    for names in (["one", "one"], ["one", "copy"]):
        tests = tuple(str(tmp_path / name) for name in names)
        for best_pair in (False, True):
            with pytest.raises(UserError, match="are results of one test"):
                ensemble(EnsembleOptions(tests, str(tmp_path / "out"), best_pair))


def test_an_ensemble_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least one result"):
        ensemble(EnsembleOptions((), str(tmp_path / "out")))


def test_the_best_pair_of_one_is_refused(folder, tmp_path):
    posteriors.write(folder, "posteriors.arrow", made_up(1))
    with pytest.raises(UserError, match="at least two"):
        ensemble(EnsembleOptions((str(tmp_path),), str(tmp_path / "out"), best_pair=True))


def test_a_result_is_named_by_folder_or_file(folder, tmp_path):
    posteriors.write(folder, "posteriors.arrow", made_up(1))
    assert read_posteriors(str(tmp_path)).digest == read_posteriors(str(tmp_path / "posteriors.arrow")).digest


def spoilt(value, row=7):
    """Probabilities of which one image's are wrong, by the value of a class."""
    sound = made_up(1)
    values_NK = sound.posteriors_NK.copy()
    values_NK[row, 2] = value
    return replace(sound, posteriors_NK=values_NK)


@pytest.mark.parametrize("weights", [[], [0.5], [2.0, -1.0], [0.5, 0.5, 0.0], [float("nan"), 1.0]])
def test_shares_that_are_no_means_are_refused(weights):
    members = [(member(f"d-{i}"), weight) for i, weight in enumerate(weights)]
    wrong = replace(made_up(1).provenance, members=tuple(members))
    with pytest.raises(ValueError, match="weight"):
        Provenance.from_json(wrong.to_json())
    twice = replace(made_up(1).provenance, members=((member(), 0.5), (member(), 0.5)))
    with pytest.raises(ValueError, match="once"):
        Provenance.from_json(twice.to_json())


FAULTS = [
    (spoilt(np.nan), r"1 of 60 images .*é7\.jpg's are not finite"),
    (spoilt(np.inf), "not finite"),
    (spoilt(-np.inf), "not finite"),
    (spoilt(-0.1), "negative"),
    (spoilt(3.0), "add up to 3"),
    (replace(made_up(1), posteriors_NK=np.zeros((60, 5), np.float32)), "60 of 60 .*add up to 0"),
    (replace(made_up(1), posteriors_NK=np.full((60, 4), 0.25, np.float32)), r"shape \[60, 4\]"),
    (replace(made_up(1), labels_N=np.full(60, 5, np.int32)), "label 5 of é0"),
    (replace(made_up(1), labels_N=np.full(60, -1, np.int32)), "label -1"),
]


@pytest.mark.parametrize(("wrong", "reason"), FAULTS)
def test_what_is_no_probability_is_neither_written_nor_published(folder, tmp_path, wrong, reason):
    """Nor tracked: the server that is named here would be asked."""
    with pytest.raises(Failure, match=reason):
        posteriors.write(folder, "p.arrow", wrong)
    with pytest.raises(Failure, match=rf"d-1 dense 256: .*{reason}"):
        publish(folder.child("out"), wrong, "http://127.0.0.1:9", "vgg", kind="eval")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("wrong", "reason"), FAULTS)
def test_what_is_no_probability_is_not_read_or_fused(folder, tmp_path, monkeypatch, wrong, reason):
    """From a file that an earlier version wrote, with a digest that is right."""
    with monkeypatch.context() as patch:
        patch.setattr(posteriors, "require_sound", lambda each: None)
        posteriors.write(folder.child("old"), "posteriors.arrow", wrong)
    with pytest.raises(UserError, match=rf"posteriors\.arrow cannot be used: .*{reason}"):
        ensemble(EnsembleOptions((str(tmp_path / "old"),), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_probabilities_in_single_precision_are_sound():
    """Of a thousand classes and of very sure nets."""
    logits_NK = np.random.default_rng(0).normal(0, 20, (50, 1000)).astype(np.float32)
    odds_NK = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
    assert why_no_probabilities(odds_NK / odds_NK.sum(1, keepdims=True), [str(i) for i in range(50)]) is None
