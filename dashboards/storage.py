"""Static files under hashed names, imports between our own modules included, compressed ahead."""

from servestatic.storage import CompressedManifestStaticFilesStorage


class StaticStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """ServeStatic's storage, which also rewrites `import … from "./x.js";` of our own scripts to the hashed name.

    Of our own alone: others' files may hold such a line in a comment, and Django would look for its file.
    """

    support_js_module_import_aggregation = True
    _js_module_import_aggregation_patterns = (
        "js/*.js",
        CompressedManifestStaticFilesStorage._js_module_import_aggregation_patterns[1],
    )
