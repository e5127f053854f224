"""core/v1 Secret, ConfigMap and ServiceAccount: what pods are configured with, and who they are."""

from __future__ import annotations

from shared.models.base import Base64, KubeModel, doc
from shared.models.meta import ObjectMeta
from shared.models.references import LocalObjectReference, ObjectReference


class Secret(KubeModel):
    """Small data that is not for everybody's eyes."""

    api_version: str | None = doc("v1.")
    data: dict[str, Base64] | None = doc("The data, in base64.")
    immutable: bool | None = doc("Whether it can never change again, but for its metadata.")
    kind: str | None = doc("Secret.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    string_data: dict[str, str] | None = doc("Data as text, for writing only: it goes into data.")
    type: str | None = doc("What it is for: Opaque (default), kubernetes.io/tls, ….")


class ConfigMap(KubeModel):
    """Configuration for pods."""

    api_version: str | None = doc("v1.")
    binary_data: dict[str, Base64] | None = doc("Data that is no text, in base64.")
    data: dict[str, str] | None = doc("Data that is text.")
    immutable: bool | None = doc("Whether it can never change again, but for its metadata.")
    kind: str | None = doc("ConfigMap.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")


class ServiceAccount(KubeModel):
    """Who a pod is."""

    api_version: str | None = doc("v1.")
    automount_service_account_token: bool | None = doc("Whether its pods get a token.")
    image_pull_secrets: list[LocalObjectReference] | None = doc(
        "Credentials for images, of pods that name none."
    )
    kind: str | None = doc("ServiceAccount.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    secrets: list[ObjectReference] | None = doc("Secrets that its pods may use.", merge_key="name")
