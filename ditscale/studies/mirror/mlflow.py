"""MLflow at ``MLFLOW_TRACKING_URI``, a server or a database; MLflow's default is ``mlflow.db`` here. A study is an experiment."""

import json
import time

import mlflow
from mlflow.entities import Metric, Param

from ditscale.dotted import dotted_keys
from ditscale.rundir import DONE, FAILED, RUNNING
from ditscale.studies.mirror.mirror import Point, RunFacts

STATES = {DONE: "FINISHED", FAILED: "FAILED", RUNNING: "RUNNING"}              # else SCHEDULED: to be started or resumed
AT_ONCE = 1000                                                                 # metrics per request, MLflow's limit


class Mirror:
    ERRORS = (mlflow.exceptions.MlflowException, OSError)

    def __init__(self, study: str):
        self.client = mlflow.MlflowClient()
        self.place = f"{self.client.tracking_uri} {study}"
        self.hint = f"MLflow: look with `mlflow ui --backend-store-uri {self.client.tracking_uri}`"
        found = self.client.get_experiment_by_name(study)
        self.experiment = found.experiment_id if found else self.client.create_experiment(study)

    def has(self, name: str) -> bool:
        return bool(self._runs(name))

    def _runs(self, name: str) -> list:
        return self.client.search_runs([self.experiment], filter_string=f"attributes.run_name = '{name}'", max_results=1)

    def send(self, name: str, facts: RunFacts, points: list[Point], sent: int) -> None:
        found = self._runs(name)
        run = (found[0] if found else self.client.create_run(self.experiment, run_name=name)).info.run_id
        if not found:
            self.client.log_batch(run, params=[Param(key, str(value)) for key, value in dotted_keys(facts.config).items()])
        for passport, fields in facts.passports.items():
            self.client.set_tag(run, f"passport/{passport}", json.dumps(fields))
        now = int(time.time() * 1000)
        waiting: list[Metric] = []
        for number, point in enumerate(points):                                # a separate time for each, so that equal values at one step stay separate
            line = [Metric(key, float(value), now + number, point.images_seen) for key, value in point.values.items()]
            if len(waiting) + len(line) > AT_ONCE:
                self.client.log_batch(run, metrics=waiting)
                waiting = []
            waiting += line
        self.client.log_batch(run, metrics=waiting)
        self.client.update_run(run, status=STATES.get(facts.state, "SCHEDULED"))
