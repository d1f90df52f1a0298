"""What a run counts in: the ledger in its folder, and the one counter that an engine's workers share."""

from __future__ import annotations

from fimaudit.engines.work import RemoteEngine
from fimaudit.errors import UsageError
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.leases import Ledger, Usage
from fimaudit.storage.answers import ANSWERS
from fimaudit.storage.journal import LEDGER, CountingLedger, Journal
from fimaudit.storage.ledger import RequestLedger, open_ledger

__all__ = ["endpoint_fingerprint", "open_run_ledger", "share_counts"]


def open_run_ledger(classifier: Classifier, journal: Journal) -> RequestLedger | CountingLedger:
    """An endpoint's ledger beside the journal, or the journal as one; where none can be had, the folder is as it was."""
    if not isinstance(classifier, NetworkClassifier):
        return CountingLedger(journal)
    try:
        journal.begin()
        return open_ledger(journal.folder / LEDGER, endpoint_fingerprint(classifier), resume=journal.resuming)
    except UsageError:
        journal.discard()
        raise


def share_counts(
    engine: RemoteEngine,
    classifier: Classifier,
    budget: int | None,
    journal: Journal | None,
    ledger: RequestLedger | CountingLedger | None,
) -> Ledger:
    """The counter of all workers, which opens the run's ledger, closed here, as its own."""
    place, answers = None, None
    if ledger is not None:
        ledger.close()  # one process at a time, and now it is the one that the workers share
    if isinstance(ledger, RequestLedger):
        place = (str(ledger.path.absolute()), endpoint_fingerprint(classifier))
    elif journal is not None and (budget is not None or (journal.resuming and (journal.folder / ANSWERS).exists())):
        answers = (str((journal.folder / ANSWERS).absolute()), journal.resuming)
    return engine.prepare(classifier, budget, Usage() if journal is None else journal.asked, place, answers)


def endpoint_fingerprint(classifier: Classifier) -> str:
    """What an endpoint's ledger is tied to."""
    return str(classifier.info.details.get("fingerprint", classifier.info.name))
