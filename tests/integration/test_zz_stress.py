from tests.integration.test_bad_input_store import *
import pytest
@pytest.mark.parametrize("after_s", [x/1000 for x in range(0,10,1) for _ in range(2)])
def test_stress(store, caller, after_s):
    texts = sentences(600)
    documents = [document(f"n{number}", text) for number, text in enumerate(texts)]
    stream = caller.stream()
    reads = store.calls_of("hmget")
    stream.put(documents)
    # Old versions are looked up first, and the write follows at once.
    while store.calls_of("hmget") == reads:
        pass
    time.sleep(after_s)
    with store.stopped():
        response = next(stream.responses)
    deadline = time.monotonic() + PATIENCE_S
    while (held := caller.held()) not in ({len(TEXTS)}, {len(TEXTS) + len(documents)}):
        assert time.monotonic() < deadline, f"store and tiers hold {held}"
        time.sleep(0.05)
    print(after_s, response.indexed, len(response.errors), held, store.values(caller.collection))
    assert stream.send(*documents).indexed == len(documents)
    stream.finish()
    assert caller.held() == {len(TEXTS) + len(documents)}
