"""core/v1 volumes that Kubernetes itself defines and keeps: what a pod can mount."""

from __future__ import annotations

from shared.models.base import Int32, Int64, KubeModel, Quantity, doc
from shared.models.legacy_volumes import (
    AWSElasticBlockStoreVolumeSource,
    AzureDiskVolumeSource,
    AzureFileVolumeSource,
    CephFSVolumeSource,
    CinderVolumeSource,
    FCVolumeSource,
    FlexVolumeSource,
    FlockerVolumeSource,
    GCEPersistentDiskVolumeSource,
    GitRepoVolumeSource,
    GlusterfsVolumeSource,
    ISCSIVolumeSource,
    PhotonPersistentDiskVolumeSource,
    PortworxVolumeSource,
    QuobyteVolumeSource,
    RBDVolumeSource,
    ScaleIOVolumeSource,
    StorageOSVolumeSource,
    VsphereVirtualDiskVolumeSource,
)
from shared.models.meta import LabelSelector, ObjectMeta
from shared.models.references import (
    LocalObjectReference,
    ObjectFieldSelector,
    ResourceFieldSelector,
    TypedLocalObjectReference,
    TypedObjectReference,
)


class KeyToPath(KubeModel):
    """A key and the file it becomes."""

    key: str | None = doc("The key.", required=True)
    mode: Int32 | None = doc("Permission bits of the file; defaultMode unless given.")
    path: str | None = doc("Relative path of the file.", required=True)


class ConfigMapVolumeSource(KubeModel):
    """Files from a ConfigMap."""

    default_mode: Int32 | None = doc("Permission bits of the files; 0644.")
    items: list[KeyToPath] | None = doc("Keys to take; all unless given.")
    name: str | None = doc("Name of the ConfigMap.")
    optional: bool | None = doc("Whether it may be missing.")


class SecretVolumeSource(KubeModel):
    """Files from a Secret."""

    default_mode: Int32 | None = doc("Permission bits of the files; 0644.")
    items: list[KeyToPath] | None = doc("Keys to take; all unless given.")
    optional: bool | None = doc("Whether it may be missing.")
    secret_name: str | None = doc("Name of the Secret.")


class DownwardAPIVolumeFile(KubeModel):
    """A file with a fact about the pod."""

    field_ref: ObjectFieldSelector | None = doc("A field of the pod.")
    mode: Int32 | None = doc("Permission bits of the file.")
    path: str | None = doc("Relative path of the file.", required=True)
    resource_field_ref: ResourceFieldSelector | None = doc("A request or limit of a container.")


class DownwardAPIVolumeSource(KubeModel):
    """Files with facts about the pod."""

    default_mode: Int32 | None = doc("Permission bits of the files; 0644.")
    items: list[DownwardAPIVolumeFile] | None = doc("The files.")


class EmptyDirVolumeSource(KubeModel):
    """A directory that lives as long as the pod on its node."""

    medium: str | None = doc("Empty for the node's disk, Memory for tmpfs.")
    size_limit: Quantity | None = doc("The most it may hold.")


class HostPathVolumeSource(KubeModel):
    """A path of the node."""

    path: str | None = doc("The path.", required=True)
    type: str | None = doc(
        "What must be there: DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice; "
        "empty for no check."
    )


class ImageVolumeSource(KubeModel):
    """The files of an image, read-only."""

    pull_policy: str | None = doc("Always, IfNotPresent or Never.")
    reference: str | None = doc("Name of the image.")


class NFSVolumeSource(KubeModel):
    """An NFS export."""

    path: str | None = doc("Path of the export.", required=True)
    read_only: bool | None = doc("Mounted read-only.")
    server: str | None = doc("The server.", required=True)


class PersistentVolumeClaimVolumeSource(KubeModel):
    """The volume bound to a claim."""

    claim_name: str | None = doc("Name of the claim.", required=True)
    read_only: bool | None = doc("Mounted read-only.")


class CSIVolumeSource(KubeModel):
    """A volume that a CSI driver makes for the pod."""

    driver: str | None = doc("Name of the driver.", required=True)
    fs_type: str | None = doc("File system, if the driver is to choose none.")
    node_publish_secret_ref: LocalObjectReference | None = doc("Secret for the driver.")
    read_only: bool | None = doc("Mounted read-only.")
    volume_attributes: dict[str, str] | None = doc("Properties for the driver.")


class VolumeResourceRequirements(KubeModel):
    """How much storage a claim asks for."""

    limits: dict[str, Quantity] | None = doc("The most.")
    requests: dict[str, Quantity] | None = doc("The least.")


class PersistentVolumeClaimSpec(KubeModel):
    """What a claim asks for."""

    access_modes: list[str] | None = doc("ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod.")
    data_source: TypedLocalObjectReference | None = doc("Snapshot or claim to fill it from.")
    data_source_ref: TypedObjectReference | None = doc("Any object to fill it from.")
    resources: VolumeResourceRequirements | None = doc("How much storage.")
    selector: LabelSelector | None = doc("Volumes that may be bound.")
    storage_class_name: str | None = doc("Name of the StorageClass.")
    volume_attributes_class_name: str | None = doc("Name of the VolumeAttributesClass.")
    volume_mode: str | None = doc("Filesystem (default) or Block.")
    volume_name: str | None = doc("The volume that is bound.")


class PersistentVolumeClaimTemplate(KubeModel):
    """A claim to be made for a pod."""

    metadata: ObjectMeta | None = doc("Labels and annotations of the claim.")
    spec: PersistentVolumeClaimSpec | None = doc("The claim.", required=True)


class EphemeralVolumeSource(KubeModel):
    """A claim that is made with the pod and goes with it."""

    volume_claim_template: PersistentVolumeClaimTemplate | None = doc("The claim.")


class ClusterTrustBundleProjection(KubeModel):
    """A file with trusted certificates."""

    label_selector: LabelSelector | None = doc("Bundles of the signer to take.")
    name: str | None = doc("The one bundle to take.")
    optional: bool | None = doc("Whether it may be missing.")
    path: str | None = doc("Relative path of the file.", required=True)
    signer_name: str | None = doc("The signer whose bundles are taken.")


class ConfigMapProjection(KubeModel):
    """Files from a ConfigMap."""

    items: list[KeyToPath] | None = doc("Keys to take; all unless given.")
    name: str | None = doc("Name of the ConfigMap.")
    optional: bool | None = doc("Whether it may be missing.")


class DownwardAPIProjection(KubeModel):
    """Files with facts about the pod."""

    items: list[DownwardAPIVolumeFile] | None = doc("The files.")


class SecretProjection(KubeModel):
    """Files from a Secret."""

    items: list[KeyToPath] | None = doc("Keys to take; all unless given.")
    name: str | None = doc("Name of the Secret.")
    optional: bool | None = doc("Whether it may be missing.")


class ServiceAccountTokenProjection(KubeModel):
    """A file with a token of the pod's service account."""

    audience: str | None = doc("Whom the token is for; the API unless given.")
    expiration_seconds: Int64 | None = doc("How long it is valid; 3600.")
    path: str | None = doc("Relative path of the file.", required=True)


class VolumeProjection(KubeModel):
    """One source of a projected volume; exactly one is set."""

    cluster_trust_bundle: ClusterTrustBundleProjection | None = doc("Trusted certificates.")
    config_map: ConfigMapProjection | None = doc("A ConfigMap.")
    downward_api: DownwardAPIProjection | None = doc("Facts about the pod.", alias="downwardAPI")
    secret: SecretProjection | None = doc("A Secret.")
    service_account_token: ServiceAccountTokenProjection | None = doc("A token.")


class ProjectedVolumeSource(KubeModel):
    """Several sources in one directory."""

    default_mode: Int32 | None = doc("Permission bits of the files; 0644.")
    sources: list[VolumeProjection] | None = doc("The sources.")


class Volume(KubeModel):
    """A named volume of a pod; exactly one source is set."""

    aws_elastic_block_store: AWSElasticBlockStoreVolumeSource | None = doc("An AWS disk.")
    azure_disk: AzureDiskVolumeSource | None = doc("An Azure disk.")
    azure_file: AzureFileVolumeSource | None = doc("An Azure file share.")
    cephfs: CephFSVolumeSource | None = doc("A CephFS path.")
    cinder: CinderVolumeSource | None = doc("An OpenStack volume.")
    config_map: ConfigMapVolumeSource | None = doc("Files from a ConfigMap.")
    csi: CSIVolumeSource | None = doc("A volume of a CSI driver.")
    downward_api: DownwardAPIVolumeSource | None = doc("Facts about the pod.", alias="downwardAPI")
    empty_dir: EmptyDirVolumeSource | None = doc("A directory that lives as long as the pod.")
    ephemeral: EphemeralVolumeSource | None = doc("A claim that lives as long as the pod.")
    fc: FCVolumeSource | None = doc("A Fibre Channel disk.")
    flex_volume: FlexVolumeSource | None = doc("A volume of a FlexVolume driver.")
    flocker: FlockerVolumeSource | None = doc("A Flocker dataset.")
    gce_persistent_disk: GCEPersistentDiskVolumeSource | None = doc("A GCE disk.")
    git_repo: GitRepoVolumeSource | None = doc("A clone of a git repository.")
    glusterfs: GlusterfsVolumeSource | None = doc("A GlusterFS volume.")
    host_path: HostPathVolumeSource | None = doc("A path of the node.")
    image: ImageVolumeSource | None = doc("The files of an image.")
    iscsi: ISCSIVolumeSource | None = doc("An iSCSI disk.")
    name: str | None = doc("Name, a DNS label, unique in the pod.", required=True)
    nfs: NFSVolumeSource | None = doc("An NFS export.")
    persistent_volume_claim: PersistentVolumeClaimVolumeSource | None = doc("The volume of a claim.")
    photon_persistent_disk: PhotonPersistentDiskVolumeSource | None = doc("A Photon disk.")
    portworx_volume: PortworxVolumeSource | None = doc("A Portworx volume.")
    projected: ProjectedVolumeSource | None = doc("Several sources in one directory.")
    quobyte: QuobyteVolumeSource | None = doc("A Quobyte volume.")
    rbd: RBDVolumeSource | None = doc("A Ceph block device.")
    scale_io: ScaleIOVolumeSource | None = doc("A ScaleIO volume.", alias="scaleIO")
    secret: SecretVolumeSource | None = doc("Files from a Secret.")
    storageos: StorageOSVolumeSource | None = doc("A StorageOS volume.")
    vsphere_volume: VsphereVirtualDiskVolumeSource | None = doc("A vSphere disk.")
