{{/* The labels of a component, which also select its pods: include "labels" "receiver" */}}
{{- define "labels" -}}
app.kubernetes.io/name: wa-ingest
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* name:tag@digest, as far as they are given */}}
{{- define "image" -}}
{{ .repository }}{{ with .tag }}:{{ . }}{{ end }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{/* What the pods of receivers and workers have in common: no token of the cluster, user 10001 */}}
{{- define "pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
shareProcessNamespace: true
terminationGracePeriodSeconds: 40
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "container" -}}
image: {{ include "image" .Values.image }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Pods are replaced when this changes: settings, and secrets that the chart makes */}}
{{- define "checksum" -}}
{{ list .Values.settings .Values.receiver.secrets .Values.worker.secrets | toJson | sha256sum }}
{{- end }}
