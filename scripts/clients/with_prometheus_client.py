"""Reads the metrics by Prometheus's own parsers, in both forms, and finds the same in both."""

import os
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families as read_plain


def metrics(accept, kind, read):
    request = urllib.request.Request(os.environ["URL"] + "/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as reply:
        assert reply.headers["content-type"].startswith(kind), reply.headers["content-type"]
        families = list(read(reply.read().decode()))
    assert all(family.samples or family.type != "info" for family in families)
    return {sample.name for family in families for sample in family.samples}


plain = metrics("text/plain;version=0.0.4", "text/plain; version=0.0.4", read_plain)
open_metrics = metrics("application/openmetrics-text;version=1.0.0", "application/openmetrics-text", read_open_metrics)
assert plain == open_metrics and "minute_credit_http_requests_total" in plain, plain ^ open_metrics
