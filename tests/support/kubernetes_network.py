"""What network policies let through."""

from __future__ import annotations

import ipaddress
from typing import Any

from support.kubernetes import Document, labels_of, of_kind, selects


class Network:
    """What network policies let through: all of them are of one namespace, and so are the pods that they select."""

    def __init__(self, documents: list[Document], namespace: str) -> None:
        self._policies = [policy["spec"] for policy in of_kind(documents, "NetworkPolicy")]
        self._namespace_labels = {"kubernetes.io/metadata.name": namespace}

    def may_connect(
        self, source: Document, target: Document, port: Document, *, protocol: str = "TCP"
    ) -> bool:
        """Whether a pod of one workload reaches a port of a pod of another.

        Args:
            source: the workload that connects.
            target: the workload that listens.
            port: as the target's container has it, with ``name`` and ``containerPort``.
            protocol: of the transport.
        """
        peer, own = labels_of(source), labels_of(target)
        return self._is_allowed(
            "Egress", peer, lambda to: self._is_peer(to, own, self._namespace_labels), port, protocol
        ) and self.may_be_reached(target, port, labels=peer, namespace=self._namespace_labels)

    def may_be_reached(
        self, target: Document, port: Document, *, labels: dict[str, str], namespace: dict[str, str]
    ) -> bool:
        """Whether a pod with these labels, in a namespace with those, is let in."""
        return self._is_allowed(
            "Ingress", labels_of(target), lambda peer: self._is_peer(peer, labels, namespace), port, "TCP"
        )

    def may_go_to(self, source: Document, address: str, port: int, *, protocol: str = "TCP") -> bool:
        """Whether a pod of a workload reaches an address outside."""
        return self._is_allowed(
            "Egress",
            labels_of(source),
            lambda peer: _has_address(peer, address),
            {"containerPort": port},
            protocol,
        )

    def may_look_up_names(self, source: Document, protocol: str) -> bool:
        """Whether a pod of a workload reaches the cluster's DNS."""
        namespace = {"kubernetes.io/metadata.name": "kube-system"}
        dns = {"k8s-app": "kube-dns"}
        return self._is_allowed(
            "Egress",
            labels_of(source),
            lambda peer: self._is_peer(peer, dns, namespace),
            {"containerPort": 53},
            protocol,
        )

    def _is_allowed(
        self, direction: str, labels: dict[str, str], is_peer: Any, port: Document, protocol: str
    ) -> bool:
        of_pod = [
            policy
            for policy in self._policies
            if direction in policy["policyTypes"] and selects(policy["podSelector"], labels)
        ]
        if not of_pod:
            return True
        peers = {"Ingress": "from", "Egress": "to"}[direction]
        return any(
            any(is_peer(peer) for peer in rule[peers]) and _has_port(rule, port, protocol)
            for policy in of_pod
            for rule in policy.get(direction.lower(), [])
        )

    def _is_peer(self, peer: Document, labels: dict[str, str], namespace: dict[str, str]) -> bool:
        if "ipBlock" in peer:
            return False
        if "namespaceSelector" not in peer and namespace != self._namespace_labels:
            return False
        return selects(peer.get("namespaceSelector", {}), namespace) and selects(
            peer.get("podSelector", {}), labels
        )


def _has_address(peer: Document, address: str) -> bool:
    block, wanted = peer.get("ipBlock"), ipaddress.ip_address(address)
    return (
        block is not None
        and wanted in ipaddress.ip_network(block["cidr"])
        and not any(wanted in ipaddress.ip_network(hole) for hole in block.get("except", []))
    )


def _has_port(rule: Document, port: Document, protocol: str) -> bool:
    for allowed in rule["ports"]:
        if allowed.get("protocol", "TCP") != protocol:
            continue
        if "port" not in allowed or allowed["port"] in (port["containerPort"], port.get("name")):
            return True
    return False
