{{/* A file of the Kustomize base or overlays with this release's namespace and resource. files/ holds
links to them, so that the two ways to install cannot differ. Call with (list $ "name"). */}}
{{- define "muster.shipped" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (printf "files/%s" (index . 1)) -}}
{{- if not $text }}{{ fail (printf "files/%s is missing: install from a checkout or a packaged chart" (index . 1)) }}{{ end -}}
{{- $text | replace "muster-system" $root.Release.Namespace | replace "nvidia.com/gpu" $root.Values.resource -}}
{{- end -}}

{{- define "muster.toml" -}}
{{- mergeOverwrite (include "muster.shipped" (list . "muster.toml") | fromToml) .Values.settings | toToml -}}
{{- end -}}

{{/* The policy of tenants, in the namespaces that the values name. */}}
{{- define "muster.tenants" -}}
{{- $selector := .Values.tenants -}}
{{- range $text := splitList "\n---\n" (include "muster.shipped" (list . "tenants.yaml")) -}}
{{- $item := fromYaml $text -}}
{{- if eq $item.kind "ValidatingAdmissionPolicyBinding" -}}
{{- $_ := set $item.spec.matchResources "namespaceSelector" $selector -}}
{{- end }}
---
{{ toYaml $item }}
{{- end -}}
{{- end -}}

{{/* The policy of gangs; beside a second scheduler with what the overlay adds to it. */}}
{{- define "muster.admission" -}}
{{- $managed := .Values.managed.enabled -}}
{{- $additions := include "muster.shipped" (list . "managed-gate.yaml") | fromYamlArray -}}
{{- range $text := splitList "\n---\n" (include "muster.shipped" (list . "admission.yaml")) -}}
{{- $item := fromYaml $text -}}
{{- if and $managed (eq $item.kind "MutatingAdmissionPolicy") -}}
{{- range $additions -}}
{{- $_ := set $item.spec "mutations" (append $item.spec.mutations .value) -}}
{{- end -}}
{{- end }}
---
{{ toYaml $item }}
{{- end -}}
{{- end -}}
