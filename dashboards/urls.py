"""Paths of the pages and of the JSON their scripts read."""

from django.urls import path

from dashboards.pages import data, events, gpu, node, nodes, overview, preferences

urlpatterns = [
    path("", overview.overview, name="overview"),
    path("nodes/", nodes.nodes, name="nodes"),
    path("nodes/add", nodes.add_node, name="add-node"),
    path("nodes/<str:name>/", node.node, name="node"),
    path("nodes/<str:name>/approve", nodes.approve, name="approve-node"),
    path("nodes/<str:name>/gpus/<int:index>/", gpu.by_seat, name="gpu-seat"),
    path("gpus/<path:uuid>/", gpu.gpu, name="gpu"),
    path("events/", events.events, name="events"),
    path("preferences", preferences.preferences, name="preferences"),
    path("live/<str:panel>", data.live_panel, name="live-panel"),
    path("series/<str:table>/<path:subject>", data.series, name="series"),
]
