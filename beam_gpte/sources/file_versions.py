"""Tell one version of a file from another, so that a stream never mixes the rows of two.

A version is a size and a time of change. A folder, one small file per file that was read, keeps the
versions beyond the end of a job.
"""

import dataclasses
import hashlib
import json

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.json_values import write_json


def version_of(file: FileMetadata) -> str:
    """Return the version of a file that was listed."""
    return f"{file.size_in_bytes} bytes of {file.last_updated_in_seconds or 0:.6f}"


def current_version(path: str) -> str:
    """Return the version of a file as it is now.

    Raises:
      InputError: there is no such file.
    """
    try:
        return version_of(FileSystems.get_filesystem(path).metadata(path))
    except (BeamIOError, OSError) as error:
        raise InputError(f"{path}: cannot be read: {error}; replace the file") from error


@dataclasses.dataclass(frozen=True)
class FileVersions:
    """Keep the versions of the files that were read.

    Attributes:
      folder: for one file each, on any Beam file system; None keeps nothing.
    """

    folder: str | None

    def differs(self, name: str, version: str) -> bool:
        """Check whether another version of a file was read before."""
        known = self._known(name)
        return known is not None and known != version

    def keep(self, name: str, version: str) -> None:
        """Keep the version of a file, before any of its rows can be committed."""
        if self.folder is not None and self._known(name) != version:
            if FileSystems.get_scheme(self.folder) is None and not FileSystems.exists(self.folder):
                FileSystems.mkdirs(self.folder)
            write_json(self._path(name), {"file": name, "version": version})

    def _known(self, name: str) -> str | None:
        if self.folder is None or not FileSystems.exists(self._path(name)):
            return None
        with FileSystems.open(self._path(name)) as file:
            return str(json.loads(file.read())["version"])

    def _path(self, name: str) -> str:
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16)
        return FileSystems.join(str(self.folder), f"{digest.hexdigest()}.json")
