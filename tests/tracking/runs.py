"""What a test finds on the server, and delivering a spool a second time."""

from mlflow import MlflowClient

from vgg.tracking.sender import Sender
from vgg.tracking.spool import Spool

DELIVERY_SECONDS = 60


def run_of(server, info):
    """The one run of this uid."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(info.experiment)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`vgg.uid` = '{info.uid}'")
    return client, run


def points(client, run, key):
    return [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]


def deliver_again(folder, server):
    """Deliver all events once more, as after losing sent.json."""
    spool = Spool(folder)
    assert spool.lock_for_delivery()
    spool.mark_delivered(0)
    spool.unlock()
    sender = Sender(Spool(folder), server.url)
    sender.finish.set()
    sender.run(DELIVERY_SECONDS)
    assert sender.done
