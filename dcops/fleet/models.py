"""Nodes, GPUs and the tokens that let a node in. Telemetry refers to nodes and GPUs by their int4 ids."""

import uuid

from django.db import models

from dcops.domain.nodes import NodeState


class Node(models.Model):
    """A machine that runs an agent. Identity is the bound Ed25519 key; what the agent reports about itself may be blank."""

    id = models.AutoField(primary_key=True)
    uuid = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=63, unique=True)
    state = models.CharField(max_length=20, choices=[(s.value, s.value) for s in NodeState])
    state_reason = models.TextField(default="", blank=True)
    state_changed_at = models.DateTimeField()
    simulated = models.BooleanField(default=False)
    public_key = models.BinaryField(unique=True)
    join_token = models.ForeignKey("JoinToken", on_delete=models.PROTECT, related_name="nodes")
    enrolled_at = models.DateTimeField()
    last_seen_at = models.DateTimeField(null=True)

    # Where it stands and what it is for; a later issue fills these.
    rack = models.TextField(default="", blank=True)
    labels = models.JSONField(default=dict, blank=True)

    # As the agent reported them last.
    inventory_at = models.DateTimeField(null=True)
    hostname = models.TextField(default="", blank=True)
    machine_id = models.TextField(default="", blank=True)
    boot_id = models.TextField(default="", blank=True)
    agent_version = models.TextField(default="", blank=True)
    os = models.TextField(default="", blank=True)
    kernel = models.TextField(default="", blank=True)
    architecture = models.TextField(default="", blank=True)
    cpu_model = models.TextField(default="", blank=True)
    cpu_cores = models.BigIntegerField(null=True)
    cpu_threads = models.BigIntegerField(null=True)
    memory_total_bytes = models.BigIntegerField(null=True)
    driver_version = models.TextField(default="", blank=True)
    cuda_version = models.TextField(default="", blank=True)
    nvml_version = models.TextField(default="", blank=True)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        db_table = "fleet_node"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=[state.value for state in NodeState]),
                name="fleet_node_state",
            ),
            models.CheckConstraint(
                condition=models.Q(name__regex=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"),
                name="fleet_node_name",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Gpu(models.Model):
    """One GPU, known by its NVML UUID wherever it is plugged in. `present` says the last inventory of its node had it."""

    id = models.AutoField(primary_key=True)
    uuid = models.CharField(max_length=96, unique=True)
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="gpus")
    present = models.BooleanField(default=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()

    index = models.BigIntegerField()
    model = models.TextField()
    serial = models.TextField(default="", blank=True)
    pci_bus_id = models.TextField(default="", blank=True)
    vbios = models.TextField(default="", blank=True)
    architecture = models.TextField(default="", blank=True)
    compute_capability = models.TextField(default="", blank=True)
    memory_total_bytes = models.BigIntegerField(null=True)
    power_limit_min_w = models.FloatField(null=True)
    power_limit_max_w = models.FloatField(null=True)
    power_limit_default_w = models.FloatField(null=True)
    temperature_slowdown_c = models.BigIntegerField(null=True)
    temperature_shutdown_c = models.BigIntegerField(null=True)
    temperature_memory_max_c = models.BigIntegerField(null=True)
    sm_clock_max_mhz = models.BigIntegerField(null=True)
    memory_clock_max_mhz = models.BigIntegerField(null=True)
    pcie_link_generation_max = models.BigIntegerField(null=True)
    pcie_link_width_max = models.BigIntegerField(null=True)
    ecc_enabled = models.BooleanField(null=True)
    persistence_mode = models.BooleanField(null=True)
    mig_mode = models.BooleanField(null=True)
    mig_devices = models.JSONField(default=list, blank=True)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        db_table = "fleet_gpu"
        indexes = [models.Index(fields=["node", "index"], name="fleet_gpu_seat")]
        constraints = [models.CheckConstraint(condition=~models.Q(uuid=""), name="fleet_gpu_uuid")]

    def __str__(self) -> str:
        return self.uuid


class JoinToken(models.Model):
    """What lets a node in: short-lived, and good for one node unless it was made for a simulated hall."""

    id = models.CharField(primary_key=True, max_length=16)
    secret_sha256 = models.BinaryField()
    node_name = models.CharField(max_length=63, default="", blank=True)
    auto_approve = models.BooleanField(default=False)
    simulated = models.BooleanField(default=False)
    uses_left = models.IntegerField()
    created_at = models.DateTimeField()
    created_by = models.TextField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "fleet_join_token"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(uses_left__gte=0), name="fleet_join_token_uses"
            ),
            models.CheckConstraint(
                condition=models.Q(simulated=True) | models.Q(uses_left__lte=1),
                name="fleet_join_token_single_use",
            ),
        ]

    def __str__(self) -> str:
        return self.id
