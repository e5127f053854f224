"""core/v1 volume sources of single vendors, most of them deprecated in Kubernetes for CSI."""

from __future__ import annotations

from shared.models.base import Int32, KubeModel, doc
from shared.models.references import LocalObjectReference


class AWSElasticBlockStoreVolumeSource(KubeModel):
    """An AWS disk."""

    fs_type: str | None = doc("File system of the volume.")
    partition: Int32 | None = doc("Partition to mount.")
    read_only: bool | None = doc("Mounted read-only.")
    volume_id: str | None = doc("ID of the disk.", required=True, alias="volumeID")


class AzureDiskVolumeSource(KubeModel):
    """An Azure disk."""

    caching_mode: str | None = doc("None, ReadOnly or ReadWrite.")
    disk_name: str | None = doc("Name of the disk.", required=True)
    disk_uri: str | None = doc("URI of the disk.", required=True, alias="diskURI")
    fs_type: str | None = doc("File system of the volume.")
    kind: str | None = doc("Shared, Dedicated or Managed.")
    read_only: bool | None = doc("Mounted read-only.")


class AzureFileVolumeSource(KubeModel):
    """An Azure file share."""

    read_only: bool | None = doc("Mounted read-only.")
    secret_name: str | None = doc("Secret with the account.", required=True)
    share_name: str | None = doc("Name of the share.", required=True)


class CephFSVolumeSource(KubeModel):
    """A CephFS path."""

    monitors: list[str] | None = doc("Ceph monitors.", required=True)
    path: str | None = doc("Root of the mount; /.")
    read_only: bool | None = doc("Mounted read-only.")
    secret_file: str | None = doc("Path of the key file.")
    secret_ref: LocalObjectReference | None = doc("Secret with the key.")
    user: str | None = doc("Ceph user; admin.")


class CinderVolumeSource(KubeModel):
    """An OpenStack volume."""

    fs_type: str | None = doc("File system of the volume.")
    read_only: bool | None = doc("Mounted read-only.")
    secret_ref: LocalObjectReference | None = doc("Secret with the credentials.")
    volume_id: str | None = doc("ID of the volume.", required=True, alias="volumeID")


class FCVolumeSource(KubeModel):
    """A Fibre Channel disk."""

    fs_type: str | None = doc("File system of the volume.")
    lun: Int32 | None = doc("Target LUN.")
    read_only: bool | None = doc("Mounted read-only.")
    target_wwns: list[str] | None = doc("Target worldwide names.", alias="targetWWNs")
    wwids: list[str] | None = doc("Worldwide identifiers; instead of targetWWNs and lun.")


class FlexVolumeSource(KubeModel):
    """A volume of a FlexVolume driver."""

    driver: str | None = doc("Name of the driver.", required=True)
    fs_type: str | None = doc("File system of the volume.")
    options: dict[str, str] | None = doc("Options for the driver.")
    read_only: bool | None = doc("Mounted read-only.")
    secret_ref: LocalObjectReference | None = doc("Secret for the driver.")


class FlockerVolumeSource(KubeModel):
    """A Flocker dataset."""

    dataset_name: str | None = doc("Name of the dataset.")
    dataset_uuid: str | None = doc("UUID of the dataset.", alias="datasetUUID")


class GCEPersistentDiskVolumeSource(KubeModel):
    """A GCE disk."""

    fs_type: str | None = doc("File system of the volume.")
    partition: Int32 | None = doc("Partition to mount.")
    pd_name: str | None = doc("Name of the disk.", required=True)
    read_only: bool | None = doc("Mounted read-only.")


class GitRepoVolumeSource(KubeModel):
    """A clone of a git repository."""

    directory: str | None = doc("Directory to clone into.")
    repository: str | None = doc("URL of the repository.", required=True)
    revision: str | None = doc("Commit to check out.")


class GlusterfsVolumeSource(KubeModel):
    """A GlusterFS volume."""

    endpoints: str | None = doc("Endpoints with the servers.", required=True)
    path: str | None = doc("Name of the volume.", required=True)
    read_only: bool | None = doc("Mounted read-only.")


class ISCSIVolumeSource(KubeModel):
    """An iSCSI disk."""

    chap_auth_discovery: bool | None = doc("CHAP for discovery.")
    chap_auth_session: bool | None = doc("CHAP for the session.")
    fs_type: str | None = doc("File system of the volume.")
    initiator_name: str | None = doc("Name of the initiator.")
    iqn: str | None = doc("Name of the target.", required=True)
    iscsi_interface: str | None = doc("Interface; default.")
    lun: Int32 | None = doc("Target LUN.", required=True)
    portals: list[str] | None = doc("Further portals of the target.")
    read_only: bool | None = doc("Mounted read-only.")
    secret_ref: LocalObjectReference | None = doc("Secret for CHAP.")
    target_portal: str | None = doc("Portal of the target.", required=True)


class PhotonPersistentDiskVolumeSource(KubeModel):
    """A Photon disk."""

    fs_type: str | None = doc("File system of the volume.")
    pd_id: str | None = doc("ID of the disk.", required=True, alias="pdID")


class PortworxVolumeSource(KubeModel):
    """A Portworx volume."""

    fs_type: str | None = doc("File system of the volume.")
    read_only: bool | None = doc("Mounted read-only.")
    volume_id: str | None = doc("ID of the volume.", required=True, alias="volumeID")


class QuobyteVolumeSource(KubeModel):
    """A Quobyte volume."""

    group: str | None = doc("Group to map access to.")
    read_only: bool | None = doc("Mounted read-only.")
    registry: str | None = doc("Registry servers.", required=True)
    tenant: str | None = doc("Tenant of the volume.")
    user: str | None = doc("User to map access to.")
    volume: str | None = doc("Name of the volume.", required=True)


class RBDVolumeSource(KubeModel):
    """A Ceph block device."""

    fs_type: str | None = doc("File system of the volume.")
    image: str | None = doc("Name of the image.", required=True)
    keyring: str | None = doc("Path of the key ring.")
    monitors: list[str] | None = doc("Ceph monitors.", required=True)
    pool: str | None = doc("Name of the pool; rbd.")
    read_only: bool | None = doc("Mounted read-only.")
    secret_ref: LocalObjectReference | None = doc("Secret with the key.")
    user: str | None = doc("Ceph user; admin.")


class ScaleIOVolumeSource(KubeModel):
    """A ScaleIO volume."""

    fs_type: str | None = doc("File system of the volume.")
    gateway: str | None = doc("Address of the gateway.", required=True)
    protection_domain: str | None = doc("Protection domain of the volume.")
    read_only: bool | None = doc("Mounted read-only.")
    secret_ref: LocalObjectReference | None = doc("Secret with the credentials.", required=True)
    ssl_enabled: bool | None = doc("Speak TLS with the gateway.")
    storage_mode: str | None = doc("ThickProvisioned or ThinProvisioned.")
    storage_pool: str | None = doc("Storage pool of the volume.")
    system: str | None = doc("Name of the storage system.", required=True)
    volume_name: str | None = doc("Name of the volume.")


class StorageOSVolumeSource(KubeModel):
    """A StorageOS volume."""

    fs_type: str | None = doc("File system of the volume.")
    read_only: bool | None = doc("Mounted read-only.")
    secret_ref: LocalObjectReference | None = doc("Secret with the credentials.")
    volume_name: str | None = doc("Name of the volume.")
    volume_namespace: str | None = doc("Namespace of the volume.")


class VsphereVirtualDiskVolumeSource(KubeModel):
    """A vSphere disk."""

    fs_type: str | None = doc("File system of the volume.")
    storage_policy_id: str | None = doc("ID of the storage policy.", alias="storagePolicyID")
    storage_policy_name: str | None = doc("Name of the storage policy.")
    volume_path: str | None = doc("Path of the disk.", required=True)
