"""The parts of the Ray engine that do not need Ray; `make ray` tests the rest."""

import pytest

from elmo_hf.corpus_embedding import ray_engine


def test_items_of_lost_workers_are_retried_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    left, rounds = {"done", "damaged", "lost once", "lost always"}, []

    class Worker:
        @staticmethod
        def about(item: str) -> str:
            return f"file of {item}"

    def run(self, items, worker, job, gpus, tell):
        rounds.append(sorted(items))
        left.difference_update({"done"} if len(rounds) == 1 else {"lost once"})
        return {item: "file of damaged: cut short" for item in items if item == "damaged"}

    monkeypatch.setattr(ray_engine._Cluster, "_run", run)
    errors = ray_engine._Cluster(None, 0, None)._until_done(lambda: sorted(left), Worker, None, 0, None)
    assert rounds == [
        ["damaged", "done", "lost always", "lost once"],
        ["lost always", "lost once"],
        ["lost always"],
        ["lost always"],
    ]
    damaged, lost = errors
    assert damaged == "file of damaged: cut short"
    assert lost.startswith("file of lost always: its worker was killed 4 times") and "--shard_words" in lost


def test_no_items_start_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine._Cluster, "_run", lambda *given: pytest.fail("asked for workers"))
    assert ray_engine._Cluster(None, 0, None)._until_done(list, None, None, 0, None) == []
