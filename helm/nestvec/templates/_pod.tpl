{{/* What every pod of nestvec has. */}}

{{- define "nestvec.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities: {drop: [ALL]}
{{- end -}}

{{/* GPUs are asked for as limits. own: the role's values. */}}
{{- define "nestvec.resources" -}}
{{- $resources := deepCopy .own.resources -}}
{{- if gt (int .own.gpus) 0 -}}
{{- $_ := set $resources.limits "nvidia.com/gpu" (int .own.gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "nestvec.env" -}}
- {name: HOME, value: /tmp}
- {name: OPENBLAS_NUM_THREADS, value: "1"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- with .own.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Files of all kinds under /etc/nestvec, in one volume: settings, passwords, certificates. */}}
{{- define "nestvec.volumes" -}}
- name: settings
  projected:
    defaultMode: 0440
    sources:
      - configMap:
          name: {{ .settings }}
{{- with .root.Values.redis }}
{{- if or .bundled .passwordSecret }}
      - secret:
          name: {{ include "nestvec.passwordSecret" $.root }}
          items:
            - {key: {{ ternary (include "nestvec.storeRole" $) "password" .userPerRole }}, path: redis/password}
{{- if .sentinelUser }}
            - {key: sentinel-password, path: redis/sentinel-password}
{{- end }}
{{- end }}
{{- if .tlsSecret }}
      - secret:
          name: {{ .tlsSecret }}
          items:
            - {key: ca.crt, path: redis-tls/ca.crt}
{{- if .tlsClientCertificate }}
            - {key: tls.crt, path: redis-tls/tls.crt}
            - {key: tls.key, path: redis-tls/tls.key}
{{- end }}
{{- end }}
{{- end }}
{{- with include "nestvec.tlsSecret" .root }}
      - secret:
          name: {{ . }}
          items:
            - {key: ca.crt, path: tls/ca.crt}
            - {key: tls.crt, path: tls/tls.crt}
            - {key: tls.key, path: tls/tls.key}
{{- end }}
{{- with include "nestvec.traceFiles" .root }}
{{ . | indent 6 }}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- with .root.Values.security.filesSecret }}
- name: auth
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Kubelet knows no TLS: health has a plain port of its own. */}}
{{- define "nestvec.probe" -}}
grpc: {port: 7701}
{{- end -}}

{{/* Everything of a pod but its containers and volumes. */}}
{{- define "nestvec.podCommon" -}}
serviceAccountName: {{ include "nestvec.fullname" .root }}-{{ .role }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.pullSecrets }}
imagePullSecrets:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with include "nestvec.priority" . }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
{{ toYaml .root.Values.podSecurityContext | indent 2 }}
{{- with .own.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{- define "nestvec.spread" -}}
topologySpreadConstraints:
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
{{ include "nestvec.selector" $ | indent 8 }}
{{- end }}
{{- end -}}

{{/* The container of a role: module, and its own arguments behind the common ones. */}}
{{- define "nestvec.container" -}}
- name: {{ .role }}
  image: {{ include "nestvec.image" (dict "root" .root "gpus" (default 0 .own.gpus)) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [python, -m, nestvec.{{ .role }}.main]
  args:
    - --config=/etc/nestvec/nestvec.yaml
    - --set=cluster.advertise=$(POD_IP):7700
    - --set=cluster.node=$(NODE_NAME)
{{- range .arguments }}
    - {{ . }}
{{- end }}
  env:
{{ include "nestvec.env" . | indent 4 }}
{{- range .env }}
    - {{ toYaml . | nindent 6 | trim }}
{{- end }}
  ports:
    - {name: grpc, containerPort: 7700, protocol: TCP}
    - {name: health, containerPort: 7701, protocol: TCP}
    - {name: metrics, containerPort: 9090, protocol: TCP}
  resources:
{{ include "nestvec.resources" . | indent 4 }}
  securityContext:
{{ include "nestvec.containerSecurity" . | indent 4 }}
  # Healthy only once it may be asked: models are loaded, a shard has caught up with the log.
  startupProbe:
    {{ include "nestvec.probe" .root }}
    periodSeconds: 5
    failureThreshold: {{ .startupFailures }}
  readinessProbe:
    {{ include "nestvec.probe" .root }}
    periodSeconds: 5
    timeoutSeconds: 2
    failureThreshold: 2
  livenessProbe:
    {{ include "nestvec.probe" .root }}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  lifecycle:
    # Until services have forgotten the pod. Then SIGTERM: not healthy, draining for two heartbeats,
    # calls in flight for drainSeconds, the lease given up.
    preStop: {sleep: {seconds: 5}}
  volumeMounts:
    - {name: settings, mountPath: /etc/nestvec, readOnly: true}
    - {name: tmp, mountPath: /tmp}
{{- if .root.Values.security.filesSecret }}
    - {name: auth, mountPath: /etc/nestvec-auth, readOnly: true}
{{- end }}
{{- range .mounts }}
    - {{ toYaml . | nindent 6 | trim }}
{{- end }}
{{- with .own.extraVolumeMounts }}
{{ toYaml . | indent 4 }}
{{- end }}
{{- end -}}
