"""Template filters for numbers and times. Every number on a page goes through one of them."""

from datetime import UTC, datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from dashboards.units import UNKNOWN, Figure, duration, figure

register = template.Library()


@register.filter
def number(value: float | None, unit: str = "") -> str:
    """`{{ watts|number:"W" }}`: a short figure with its unit, as text."""
    return str(figure(value, unit))


@register.filter
def quantity(value: float | None, unit: str = "") -> SafeString:
    """The same with the unit set smaller, for tables and tiles."""
    shown: Figure = figure(value, unit)
    return format_html(
        '<span class="q">{}<small>{}</small></span>',
        shown.value,
        f" {shown.unit}" if shown.unit else "",
    )


@register.filter
def span(seconds: float | None) -> str:
    """Seconds as a span a person reads."""
    return UNKNOWN if seconds is None else duration(seconds)


@register.filter
def moment(at: datetime | int | None) -> SafeString | str:
    """A <time> the browser turns into its own zone; UTC stays in the title. Integers are µs since 1970."""
    if at is None:
        return UNKNOWN
    when = datetime.fromtimestamp(at / 1e6, tz=UTC) if isinstance(at, int) else at.astimezone(UTC)
    text = f"{when:%Y-%m-%d %H:%M:%S} UTC"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        when.isoformat(timespec="milliseconds"),
        text,
        text,
    )
