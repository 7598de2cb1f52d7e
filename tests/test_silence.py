"""What the checkpoint library says too late is dropped, and nothing else is."""

import logging
import sys
import threading
import warnings

from genlab.run.silence import silenced


def test_what_a_failed_read_leaves_under_way_is_silent_and_other_exceptions_are_not(
    capfd, caplog, monkeypatch
):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with silenced():
        pass

    # as C++ does: not `threading`, whose exceptions have a hook of their own
    def end_in_thread(error):
        thread = threading.Thread(
            target=lambda: sys.excepthook(type(error), error, error.__traceback__)
        )
        thread.start()
        thread.join()
        return capfd.readouterr().err

    assert end_in_thread(RuntimeError("Event loop is closed")) == ""
    assert "RuntimeError: of our own" in end_in_thread(RuntimeError("of our own"))

    def log_with_asyncio(error):
        logging.getLogger("asyncio").error(
            "Future exception was never retrieved", exc_info=(type(error), error, None)
        )
        return [record.getMessage() for record in caplog.records]

    assert log_with_asyncio(RuntimeError("Event loop is closed")) == []
    assert log_with_asyncio(RuntimeError("of our own")) == ["Future exception was never retrieved"]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with silenced():
            warnings.warn(
                "coroutine 'Store._get_array_metadatas' was never awaited", RuntimeWarning, 2
            )
            warnings.warn("coroutine 'of_our_own' was never awaited", RuntimeWarning, 2)
    assert [str(each.message)[:16] for each in told] == ["coroutine 'of_ou"]
    sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
    assert "Event loop is closed" in capfd.readouterr().err, (
        "in the main thread it is an error of ours"
    )
