{{/* Ports of a role for one that calls it. In Ray, servers take a port that the system gives. */}}
{{- define "nestvec.peerPorts" -}}
{{- if and (eq .role "ray") (eq .caller "ray") -}}
ports: [{port: 1024, endPort: 65535, protocol: TCP}]
{{- else if eq .role "ray" -}}
ports: [{port: 32768, endPort: 60999, protocol: TCP}]
{{- else -}}
ports: [{port: 7700, protocol: TCP}]
{{- end -}}
{{- end -}}
