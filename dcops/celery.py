"""The Celery application and the beat schedule. Tasks are hints: each may run twice or never, the truth is in PostgreSQL."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")

app = Celery("dcops")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=True,
    worker_prefetch_multiplier=1,
    task_time_limit=240,
    task_soft_time_limit=200,
    worker_soft_shutdown_timeout=5,
    worker_max_tasks_per_child=1000,
    task_ignore_result=True,
    task_default_queue="default",
    timezone="UTC",
    broker_connection_retry_on_startup=True,
    # Redelivery sweeps every 2 s instead of every 100 s: a task of a killed worker returns when its visibility ends.
    broker_transport_options={
        "visibility_timeout": 300,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "global_keyprefix": "dcops:",
    },
)
app.autodiscover_tasks(["dcops.audit", "dcops.access", "dcops.fleet", "dcops.telemetry"])
app.conf.beat_schedule = {
    "partitions": {
        "task": "telemetry.keep_partitions",
        "schedule": 600.0,
        "options": {"expires": 600},
    },
    "rollups": {"task": "telemetry.roll_up", "schedule": 10.0, "options": {"expires": 10}},
    "pack": {"task": "telemetry.pack", "schedule": 300.0, "options": {"expires": 300}},
    "retention": {
        "task": "telemetry.apply_retention",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "expired": {"task": "access.forget_expired", "schedule": 3600.0, "options": {"expires": 3600}},
    "silent-nodes": {
        "task": "telemetry.note_silent_nodes",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
}
