"""Static files under hashed names, imports between our own modules included, compressed ahead."""

from servestatic.storage import CompressedManifestStaticFilesStorage


class StaticStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """ServeStatic's storage, which also rewrites `import … from "./x.js";` to the hashed name."""

    support_js_module_import_aggregation = True
