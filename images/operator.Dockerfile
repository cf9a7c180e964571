# The operator: one static executable and the certificates that it needs to reach an API server behind a public authority.
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY karve-operator /karve-operator
USER 65532:65532
ENTRYPOINT ["/karve-operator"]
