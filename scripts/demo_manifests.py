"""The manifests of the demonstration, as anyone would write them for Kubernetes."""

from __future__ import annotations

NODES = """\
apiVersion: v1
kind: Node
metadata:
  name: node1
status:
  addresses:
  - {type: InternalIP, address: 192.168.56.11}
---
apiVersion: v1
kind: Node
metadata:
  name: node2
status:
  addresses:
  - {type: InternalIP, address: 192.168.56.12}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata:
  name: kubernetes
spec:
  cidrs: [10.96.0.0/16]
"""

TOMCAT = """\
apiVersion: v1
kind: Service
metadata:
  name: tomcat
  namespace: default
spec:
  type: NodePort
  clusterIP: 10.96.0.80
  selector:
    app: tomcat
  ports:
  - name: http
    port: 8080
    targetPort: 8080
    nodePort: 30080
  - name: ajp
    port: 8009
    targetPort: 8009
    nodePort: 30009
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: tomcat-x7k2p
  namespace: default
  labels:
    kubernetes.io/service-name: tomcat
addressType: IPv4
ports:
- name: http
  port: 8080
- name: ajp
  port: 8009
endpoints:
- addresses: [10.244.1.10]
  nodeName: node1
- addresses: [10.244.2.10]
  nodeName: node2
"""

SECOND_POD = """\
- addresses: [10.244.2.10]
  nodeName: node2
"""
"""What is edited out of the slice when the second pod goes."""
