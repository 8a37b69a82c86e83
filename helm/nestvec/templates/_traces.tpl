{{/* Traces: from `telemetry.traces` to the settings of a process, its files, and the way out. */}}

{{/* Section telemetry of nestvec.yaml and cluster.yaml; nothing where no collector is named. */}}
{{- define "nestvec.telemetry" -}}
{{- with .Values.telemetry.traces -}}
{{- if .endpoint -}}
{{- if and .headersSecret (hasPrefix "http://" .endpoint) -}}
{{- fail "telemetry.traces.headersSecret: headers are secrets; give an https:// endpoint, or leave them out" -}}
{{- end -}}
{{- if and .tlsSecret (hasPrefix "http://" .endpoint) -}}
{{- fail "telemetry.traces.tlsSecret is for an https:// endpoint" -}}
{{- end -}}
{{- $traces := dict "endpoint" .endpoint "sample" .sample "callers_per_s" .callersPerSecond "attributes" .attributes -}}
{{- if .headersSecret -}}
{{- $_ := set $traces "headers_file" "/etc/nestvec/traces/headers" -}}
{{- end -}}
{{- if .tlsSecret -}}
{{- $tls := dict "ca_file" "/etc/nestvec/traces/ca.crt" -}}
{{- if .tlsClientCertificate -}}
{{- $_ := set $tls "cert_file" "/etc/nestvec/traces/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/nestvec/traces/tls.key" -}}
{{- end -}}
{{- $_ := set $traces "tls" $tls -}}
{{- end -}}
{{- toYaml (dict "traces" $traces) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Sources of the volume of files. */}}
{{- define "nestvec.traceFiles" -}}
{{- with .Values.telemetry.traces -}}
{{- if and .endpoint .headersSecret }}
- secret:
    name: {{ .headersSecret }}
    items:
      - {key: headers, path: traces/headers}
{{- end }}
{{- if and .endpoint .tlsSecret }}
- secret:
    name: {{ .tlsSecret }}
    items:
      - {key: ca.crt, path: traces/ca.crt}
{{- if .tlsClientCertificate }}
      - {key: tls.crt, path: traces/tls.crt}
      - {key: tls.key, path: traces/tls.key}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* A rule of a NetworkPolicy. */}}
{{- define "nestvec.traceEgress" -}}
{{- with .Values.telemetry.traces.endpoint -}}
- ports: [{port: {{ regexFind ":[0-9]+$" . | default ":4317" | trimPrefix ":" }}, protocol: TCP}]
  to:
{{- if $.Values.networkPolicy.collectors }}
{{ toYaml $.Values.networkPolicy.collectors | indent 4 }}
{{- else }}
    - namespaceSelector: {}
      podSelector: {matchLabels: {app.kubernetes.io/name: opentelemetry-collector}}
{{- end }}
{{- end -}}
{{- end -}}
