"""Every setting of the coordinator, read once from `EDGEWISE_*` and passed down."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Defaults run everything embedded: one SQLite file and one folder, on loopback."""

    model_config = SettingsConfigDict(env_prefix="EDGEWISE_", extra="forbid", frozen=True)

    data_dir: Path = Field(Path("edgewise-data"), description="Folder of the embedded database, blobs and keys.")
    database_url: str = Field("", repr=False, description="SQLAlchemy address; empty for SQLite in the data folder.")
    blob_dir: Path | None = Field(None, description="Folder of the blobs; unset for `blobs` in the data folder.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8470, ge=0, le=65535, description="Port to listen on.")
    hold_s: float = Field(20.0, ge=0, le=45, description="How long a check-in may be held open for an assignment.")
    worker_interval_s: float = Field(0.1, gt=0, le=60, description="Seconds between two looks at open rounds.")
    chunk_reports: int = Field(16, ge=1, le=10_000, description="Reports added up in one step of the worker.")
    free_disk_bytes: int = Field(64 << 20, ge=0, description="Blobs that would leave less than this free are refused.")

    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'coordinator.sqlite'}"

    def blob_folder(self) -> Path:
        return self.blob_dir or self.data_dir / "blobs"

    def key_file(self) -> Path:
        """The coordinator's signing key: 64 hex digits, readable by its owner alone."""
        return self.data_dir / "coordinator.key"

    def token_file(self) -> Path:
        """The operator token that `init` wrote; the database holds only its SHA-256."""
        return self.data_dir / "operator.token"
